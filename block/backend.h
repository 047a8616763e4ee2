// BlockBackend: the only front door to the block graph, for devices, jobs and exports.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "block/drain.h"
#include "block/node.h"
#include "util/error.h"

namespace rhea::block {

/// Who uses a backend: a device, a job.
/// Thread: main, with the BQL; may not poll or yield.
class BackendUser {
 public:
  virtual ~BackendUser() = default;
  /// Stop asking: on every context, without waiting for it (G17). Calls come in pairs; a backend
  /// tells only of the first begin and the last end.
  virtual void drained_begin() noexcept = 0;
  virtual void drained_end() noexcept = 0;
  /// Whether it has not stopped yet, or has requests in hand that it has not passed on.
  virtual bool drained_poll() const noexcept = 0;
  /// The medium's length has changed.
  virtual void resized(Gs&) noexcept {}
};

/// What kind of request, for statistics and errors.
enum class RequestKind : uint8_t { kRead, kWrite, kZero, kDiscard, kFlush, kStatus };
inline constexpr unsigned kRequestKinds = 6;

class BlockBackend;

/// A request under way, on its coroutine's stack, listed in its context. What a drain that ran into
/// its deadline can name.
/// Thread: the home thread of the context that it began in: a request ends where it began.
class TrackedRequest {
 public:
  struct Origin {
    const BlockBackend& backend;
    const Node& node;
  };
  TrackedRequest(BlockContext& context, const Origin& origin, RequestKind kind, uint64_t offset,
                 uint64_t size);
  ~TrackedRequest();
  TrackedRequest(const TrackedRequest&) = delete;
  TrackedRequest& operator=(const TrackedRequest&) = delete;

  /// "read of 4096 bytes at 512 (number 17, 5.0 s old) on node 'd0'".
  std::string describe(Nanoseconds now) const;
  Nanoseconds started() const noexcept { return started_; }
  const BlockBackend& backend() const noexcept { return origin_.backend; }
  TrackedRequest* next() const noexcept { return next_; }

 private:
  BlockContext& context_;
  const Origin origin_;
  const RequestKind kind_;
  const uint64_t offset_;
  const uint64_t size_;
  const uint64_t number_;
  const Nanoseconds started_;
  TrackedRequest* previous_;
  TrackedRequest* next_ = nullptr;
};

/// Numbers for query-blockstats, by kind of request. Units: as named; times are summed.
struct BackendStats {
  struct Kind {
    uint64_t operations = 0, bytes = 0, failed = 0, invalid = 0;
    Nanoseconds time{0};
  };
  std::array<Kind, kRequestKinds> kinds{};
};

/// A user's hold on a node, or on none (no medium).
///
/// Every request raises the backend's count of requests, waits outside while the backend is
/// drained, takes the graph lock once for all that happens below, and lets go in the other order.
///
/// Thread: the co_ methods in coroutines of any context with a BlockContext; all else on main.
/// Owns: the root edge. Invariants: destroyed with no request under way and no node.
/// Errors: kNotFound without a medium; kInvalidArgument outside the length; those of the nodes.
class BlockBackend final : public EdgeParent {
 public:
  /// `name` is what errors and queries call its user: "vd0", or a path for one without an id.
  BlockBackend(Graph& graph, std::string name, Permissions permissions);
  ~BlockBackend() override;

  const std::string& name() const noexcept { return name_; }
  /// Before the first request. Null detaches.
  void set_user(BackendUser* user) { user_ = user; }

  /// Gives it a node. Errors: it has one; permissions that conflict with another user's.
  Result<void> insert(Gs& gs, Node& node);
  /// Gives it another node for the one it has: a filter above that, or what is below. Errors: as
  /// insert(); requests that do not end by the deadline.
  Result<void> replace(Gs& gs, Node& node);
  /// As part of a larger change: the node is out once `transaction` is committed.
  void remove_with(GraphTransaction& transaction);
  /// Takes the node out. Errors: requests that do not end by the deadline.
  Result<void> remove(Gs& gs);
  /// Whether no request is under way; exact for a user that asks for none.
  bool idle() const noexcept { return gate_.inside() == 0; }
  /// Takes the node out of a backend that is idle and stays so. Nobody else's request waits for
  /// that, and it waits for none: no request can reach the edge any more.
  void remove_idle(Gs& gs) noexcept;
  /// Leaves the graph for good, without a node: what is left may be destroyed on any thread, later
  /// than the graph.
  void close() noexcept;
  Result<void> set_permissions(Gs& gs, Permissions permissions);
  Node* node(Gs& gs) const noexcept { return root_.node(gs); }

  // Requests. Offsets and sizes in bytes.
  Result<void> co_read(Co& co, uint64_t offset, IoVector memory);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory,
                        WriteFlags flags = WriteFlags::kNone);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                               WriteFlags flags = WriteFlags::kNone);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size);
  Result<void> co_flush(Co& co);
  /// What is where: as Node::co_status(), of the first part of the range.
  Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size);

  /// Any thread. Units: bytes; 0 without a medium.
  uint64_t length() const noexcept { return length_.load(std::memory_order_acquire); }
  bool read_only() const noexcept { return read_only_.load(std::memory_order_acquire); }
  /// The multiple that every request of this user is of (a disk's logical block).
  void set_guaranteed_alignment(uint32_t bytes) { guaranteed_alignment_ = bytes; }

  /// Whether it is a job's, which changes its node.
  bool writes_as_job() const noexcept {
    return !holds_back_ && (permissions_.taken & ~Perm::kConsistentRead) != Perm::kNone;
  }
  /// For a user that pauses by itself in a drain (a job): its requests are not held back, as one
  /// step may take several. Before the first request.
  void let_requests_pass() { holds_back_ = false; }

  /// With the write cache off every write is forced to stable storage. Any thread.
  void set_write_cache(bool on) noexcept { write_cache_.store(on, std::memory_order_release); }
  bool write_cache() const noexcept { return write_cache_.load(std::memory_order_acquire); }

  BackendStats stats() const;
  /// A request that the user refused by itself, for the statistics.
  void count_invalid(Co& co, RequestKind kind);

  bool drained() const noexcept { return gate_.is_shut(); }

  // EdgeParent.
  std::string describe() const override;
  void drained_begin(Edge& edge) noexcept override;
  void drained_end(Edge& edge) noexcept override;
  bool drained_poll(const Edge& edge) const noexcept override;
  void child_changed(Gs& gs, Edge& edge) noexcept override;

 private:
  struct alignas(64) StatsCell;
  Result<void> lead_to(Gs& gs, Node* node);
  template <class F>
  Result<void> request(Co& co, RequestKind kind, uint64_t offset, uint64_t size, F&& body);

  Graph& graph_;
  const std::string name_;
  Permissions permissions_;  // main
  BackendUser* user_ = nullptr;
  bool listed_ = true;  // in the graph's list
  Edge root_;
  RequestGate gate_;  // shut while the node is drained
  std::atomic<uint64_t> length_{0};
  std::atomic<bool> read_only_{false};
  std::atomic<bool> write_cache_{true};
  uint32_t guaranteed_alignment_ = 1;
  bool holds_back_ = true;
  std::unique_ptr<StatsCell[]> stats_;
};

}  // namespace rhea::block
