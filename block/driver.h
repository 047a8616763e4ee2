// BlockDriver: what a kind of node (file, raw, throttle, ...) implements.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/graph_lock.h"
#include "block/io_vector.h"
#include "block/permissions.h"
#include "util/coroutine.h"
#include "util/error.h"
#include "util/option_reader.h"

namespace rhea::block {

class Edge;
class Graph;
class Node;

/// What requests of a node must look like. The node's front cuts and pads what does not fit.
/// Units: bytes; 0 for "no limit". Invariants: alignments are powers of two; what is taken at most
/// is a multiple of request_alignment.
struct BlockLimits {
  uint32_t request_alignment = 1;  ///< of offset and length
  uint32_t memory_alignment = 1;   ///< of every buffer's address; of its length the lesser of both
  uint32_t max_pieces = 1024;      ///< of one request's memory; Linux's IOV_MAX
  uint64_t max_transfer = 0;
  uint64_t max_write_zeroes = 0;
  uint64_t max_discard = 0;
  uint32_t discard_alignment = 1;  ///< what is smaller is not worth a call
  friend bool operator==(const BlockLimits&, const BlockLimits&) = default;
};

enum class WriteFlags : uint8_t {
  kNone = 0,
  kForceUnitAccess = 1,  ///< on stable storage when it completes
  kMayUnmap = 2,         ///< zeroes: the space may be given back
  kNoFallback = 4,       ///< zeroes: fail with kUnsupported rather than write them slowly
};
constexpr WriteFlags operator|(WriteFlags a, WriteFlags b) {
  return static_cast<WriteFlags>(static_cast<uint8_t>(a) | static_cast<uint8_t>(b));
}
constexpr bool has(WriteFlags set, WriteFlags flag) {
  return (static_cast<uint8_t>(set) & static_cast<uint8_t>(flag)) != 0;
}

/// How a node was opened: what all drivers share. From the options every node takes.
struct NodeOptions {
  std::string node_name;        ///< "node-name"; made up ("#block123") if not given
  std::string driver;           ///< "driver"
  bool read_only = false;       ///< "read-only"
  bool auto_read_only = false;  ///< "auto-read-only"
  bool cache_direct = false;    ///< "cache.direct"
  bool cache_no_flush = false;  ///< "cache.no-flush": flushes do nothing
  bool discard = false;         ///< "discard": unmap or ignore
  bool force_share = false;     ///< "force-share": others may write
};

/// What a driver gets to open itself with.
/// Thread: main. Invariants: what is not taken out of `options` is an error afterwards, as the
/// driver does not know it.
class OpenRequest {
 public:
  virtual ~OpenRequest() = default;
  virtual OptionReader& options() = 0;
  virtual Graph& graph() = 0;
  virtual Node& node() = 0;
  /// The options that all nodes have; a driver may turn read_only on under auto_read_only.
  virtual NodeOptions& common() = 0;
  /// Opens, or looks up, what the option `name` says: a node's name or an object of options. The
  /// edge belongs to the node. The child takes over what it does not say itself of cache.direct,
  /// cache.no-flush, read-only and discard. Errors: those of the child's driver.
  virtual Result<Edge*> open_child(std::string_view name) = 0;
  /// Where that edge will lead: a reopen has not moved it yet.
  virtual Node& child_of(const Edge& edge) = 0;
};

/// A change of options under way: made by prepare, then exactly one of the two.
class ReopenState {
 public:
  /// Nothing may fail here, and I/O has stopped (a write section).
  virtual void commit(GraphWrite& write) noexcept = 0;
  /// Also for what commit() replaced: closing files and the like, after the section.
  virtual ~ReopenState() = default;
};

/// What is where, for [offset, offset + size): the first `bytes` of it are alike.
struct BlockStatus {
  uint64_t bytes = 0;
  bool data = true;   ///< else it reads as zeroes
  bool zero = false;  ///< known to read as zeroes
};

/// One node's driver: an object per node.
///
/// Every open, close and reconfigure method is global-state code (Gs&) outside coroutines. Every
/// request method is for coroutines, of any context and several at once, with the graph read-locked
/// by whoever started the request: a driver guards its own state, calls its children through their
/// edges, and takes no graph lock (G2, G3, G8).
///
/// A request method sees only what the node's front lets through: inside the node's length, aligned
/// by limits(), with at most limits().max_pieces pieces, flags it said it knows.
/// Errors: of requests: kind and os_errno() say what the host said; nothing is half an error.
class BlockDriver {
 public:
  virtual ~BlockDriver() = default;

  /// "file", "raw": what the option `driver` names.
  virtual std::string_view name() const noexcept = 0;

  // Global state.
  /// Takes its options and opens. No request has been made yet, and none will be on an error.
  virtual Result<void> open(Gs& gs, OpenRequest& request) = 0;
  /// No edge leads here any more and no request is under way. Must not fail: what can go wrong
  /// (a last flush) is logged. The children are still there.
  virtual void close(Gs&) noexcept {}
  /// Prepares to be another: `options` are all options of the node, as for open(). Errors: what can
  /// not be changed, or is wrong; nothing has changed then.
  virtual Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request);
  /// What this node needs of `child` when its own users need `needs` of it. The default is that of
  /// a filter: the same, and consistent reads.
  virtual Permissions child_permissions(const Edge& child, const Permissions& needs) const;
  /// The users' needs are about to become `needs`. A driver with locks of its own (image locks)
  /// takes what is missing; commit lets go of what is not needed. Errors: it can not be had.
  virtual Result<void> prepare_permissions(Gs&, const Permissions& /*needs*/) { return ok(); }
  virtual void commit_permissions(Gs&, const Permissions& /*needs*/) noexcept {}
  virtual void abort_permissions(Gs&) noexcept {}
  /// The images are about to be ours, see Graph::activate_all(): takes the locks that the needs ask
  /// for, which commit_permissions() or abort_permissions() follows, and forgets what it knew of
  /// the image. Errors: a lock can not be had. While they are not ours no lock is taken.
  virtual Result<void> prepare_to_activate(Gs&, const Permissions& /*needs*/) { return ok(); }
  /// They are another's from now on. All has been flushed, and nothing is under way (a section).
  virtual void inactivate(Gs&) noexcept {}
  /// A source of its own (timers, parked requests) goes quiet, until the matching end. No poll, no
  /// yield. Requests that it holds back are let go (G27). Only an open driver hears of drains: one
  /// that is opened in a section does at once, one that is closed in it hears no end.
  virtual void drained_begin() noexcept {}
  virtual void drained_end() noexcept {}
  /// Its length now; asked on open, and after resizes below it.
  virtual Result<uint64_t> measure(Gs& gs) = 0;
  /// Its limits, worked out from the options and the children's.
  virtual BlockLimits limits(Gs& gs) const = 0;
  /// For "filename" in queries: what a person would recognise; empty if there is no such thing.
  virtual std::string filename() const { return {}; }
  /// Which flags its writes, and its write-zeroes, take; the front does the rest (a flush after a
  /// write, written zeroes).
  virtual WriteFlags write_flags() const noexcept { return WriteFlags::kNone; }
  virtual WriteFlags zero_flags() const noexcept { return WriteFlags::kNone; }
  /// A filter passes everything through to its one child and has its length.
  virtual bool is_filter() const noexcept { return false; }

  // Requests.
  virtual Result<void> co_read(Co& co, uint64_t offset, IoVector memory)
      REQUIRES_SHARED(graph_lock) = 0;
  virtual Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags)
      REQUIRES_SHARED(graph_lock) = 0;
  /// Errors: kUnsupported: the front writes zeroes instead.
  virtual Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  /// Errors: kUnsupported is taken for success: discarding is advice.
  virtual Result<void> co_discard(Co& co, uint64_t offset, uint64_t size)
      REQUIRES_SHARED(graph_lock);
  virtual Result<void> co_flush(Co& co) REQUIRES_SHARED(graph_lock) = 0;
  /// Grows or shrinks; the front measures afterwards. Errors: kUnsupported.
  virtual Result<void> co_resize(Co& co, uint64_t size) REQUIRES_SHARED(graph_lock);
  virtual Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size)
      REQUIRES_SHARED(graph_lock);
};

}  // namespace rhea::block
