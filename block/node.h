// Node and Edge: the block graph.
//
// A node is one layer of an image: it has a driver, edges to its children, and users, who are the
// parents of edges to it: other nodes, and BlockBackends (what devices and jobs hold).
//
// Who reads and changes what:
//  - Edge::node() and Node::children() are what requests follow. They change only in a write
//  section,
//    unless no request can reach the parent yet, or any more.
//  - Node's list of parents, permissions and drain counts are main's own: no request looks at them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block/block_context.h"
#include "block/driver.h"
#include "block/graph_lock.h"
#include "block/permissions.h"
#include "block/request_gate.h"
#include "util/co_sync.h"
#include "util/error.h"

namespace rhea::block {

class GraphTransaction;

/// The upper end of an edge.
/// Thread: main. All of it is called with nothing half done, and may not poll or yield.
class EdgeParent {
 public:
  virtual ~EdgeParent() = default;
  /// "block device 'vd0'" or "node 'd0'": who is it, in an error.
  virtual std::string describe() const = 0;
  /// The edge's node is quiet from here until the matching end: stop asking for anything (G17).
  virtual void drained_begin(Edge& edge) noexcept = 0;
  virtual void drained_end(Edge& edge) noexcept = 0;
  /// Whether it still has requests under way, or others that it must see through, below this edge.
  virtual bool drained_poll(const Edge& edge) const noexcept = 0;
  /// The node below has another length or other limits.
  virtual void child_changed(Gs& gs, Edge& edge) noexcept = 0;
  /// Null if it is no node.
  virtual Node* as_node() noexcept { return nullptr; }
};

/// A share of a node's life. The last one to go schedules the node's end on main: it may be dropped
/// on any thread, in any section (G20).
class NodeRef {
 public:
  NodeRef() = default;
  explicit NodeRef(Node& node);
  NodeRef(const NodeRef& other);
  NodeRef(NodeRef&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  NodeRef& operator=(NodeRef other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~NodeRef();

  Node* get() const noexcept { return node_; }
  Node& operator*() const noexcept { return *node_; }
  Node* operator->() const noexcept { return node_; }
  explicit operator bool() const noexcept { return node_ != nullptr; }

 private:
  Node* node_ = nullptr;
};

/// A directed edge from a parent to a node, or to none.
/// Owns: a share of the node. Invariants: listed among the node's parents.
class Edge {
 public:
  Edge(EdgeParent& parent, std::string name) : parent_(parent), name_(std::move(name)) {}
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  EdgeParent& parent() const noexcept { return parent_; }
  /// "file", "root".
  const std::string& name() const noexcept { return name_; }

  /// The node below, for requests; null if there is none.
  Node* node() const REQUIRES_SHARED(graph_lock) { return node_.get(); }
  /// The same for main.
  Node* node(Gs&) const noexcept { return node_.get(); }
  const Permissions& permissions(Gs&) const noexcept { return permissions_; }

 private:
  friend class Node;
  friend class Graph;
  friend class GraphTransaction;
  EdgeParent& parent_;
  const std::string name_;
  NodeRef node_;
  // Main only.
  Permissions permissions_;
  bool drained_ = false;  // the parent was told that the node is quiet
  // While a transaction is open.
  bool changing_ = false;
  NodeRef next_node_;
  Permissions next_permissions_;
};

/// One node. Made by Graph::open().
///
/// Thread: see the top of the file; the co_ methods in coroutines that hold the graph lock.
/// Invariants: destroyed on main, at the top, without parents, requests and drains.
class Node final : public EdgeParent {
 public:
  ~Node() override;

  const std::string& name() const noexcept { return options_.node_name; }
  /// Whether its name was made up, so that no query shows it as a thing of the user's.
  bool is_anonymous() const noexcept { return name().starts_with('#'); }
  Graph& graph() const noexcept { return graph_; }
  BlockDriver& driver() const noexcept { return *driver_; }
  const NodeOptions& options() const noexcept { return options_; }
  bool read_only() const noexcept { return options_.read_only; }
  /// As Graph::active().
  bool active() const noexcept;

  /// Units: bytes. May change below a reader's feet when the image is resized.
  uint64_t length() const noexcept { return length_.load(std::memory_order_acquire); }
  const BlockLimits& limits() const noexcept { return limits_; }

  std::span<const std::unique_ptr<Edge>> children() const REQUIRES_SHARED(graph_lock) {
    return children_;
  }
  std::span<const std::unique_ptr<Edge>> children(Gs&) const noexcept { return children_; }
  std::span<Edge* const> parents(Gs&) const noexcept { return parents_; }
  /// The sum of what its parents take, and what all of them share.
  Permissions needs(Gs&) const noexcept { return needs_; }

  // Requests: checked, padded, cut to the driver's limits, then the driver's.
  // Errors: kInvalidArgument for a range outside the length; kPermission for a change of a
  // read-only or inactive node; the driver's.
  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory,
                        WriteFlags flags = WriteFlags::kNone) REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                               WriteFlags flags = WriteFlags::kNone) REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) REQUIRES_SHARED(graph_lock);
  Result<void> co_flush(Co& co) REQUIRES_SHARED(graph_lock);
  Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size) REQUIRES_SHARED(graph_lock);
  /// Main measures afterwards (Graph::resize()).
  Result<void> co_resize(Co& co, uint64_t size) REQUIRES_SHARED(graph_lock);

  // Requests of its own (copies in the background): raised before anything is touched (G19).
  void begin_request(BlockContext& context) noexcept { in_flight_.add(context); }
  void end_request(BlockContext& context) noexcept;

  // EdgeParent, for its children's edges.
  std::string describe() const override;
  void drained_begin(Edge& edge) noexcept override;
  void drained_end(Edge& edge) noexcept override;
  bool drained_poll(const Edge& edge) const noexcept override;
  void child_changed(Gs& gs, Edge& edge) noexcept override;
  Node* as_node() noexcept override { return this; }

  /// Nested; the first tells the driver and every parent. Main. For drain sections.
  void quiesce() noexcept;
  void unquiesce() noexcept;
  unsigned quiesced() const noexcept { return quiesced_; }
  /// Whether something that a drain of this node waits for is under way. Main.
  bool busy() const noexcept;

 private:
  friend class NodeRef;
  friend class Graph;
  friend class GraphTransaction;
  friend class OpenTree;
  friend class ReopenTree;
  Node(Graph& graph, std::unique_ptr<BlockDriver> driver, NodeOptions options);

  struct Transfer {
    enum class Kind : uint8_t { kRead, kWrite } kind;
    WriteFlags flags = WriteFlags::kNone;  // of a write
  };

  /// One look at all that is above or below a node, or several; see Graph::begin_walk(). False for
  /// a node that the walk has been at: what it found there it has taken into account.
  bool busy(uint64_t walk) const noexcept;
  /// Asks the driver for length and limits; whether one of them is new.
  bool measure(Gs& gs) noexcept;
  Result<void> check_range(uint64_t offset, uint64_t size) const;
  Result<void> check_changeable() const;
  Result<void> check_writable(uint64_t offset, uint64_t size) const;
  Result<void> read_padded(Co& co, uint64_t offset, IoVector memory) REQUIRES_SHARED(graph_lock);
  Result<void> write_padded(Co& co, uint64_t offset, IoVector memory, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  Result<void> modify(Co& co, uint64_t offset, IoVector memory, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  Result<void> modify_alone(Co& co, uint64_t offset, IoVector memory, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  Result<void> transfer(Co& co, const Transfer& what, uint64_t offset, IoVector memory)
      REQUIRES_SHARED(graph_lock);
  Result<void> transfer_parts(Co& co, const Transfer& what, uint64_t offset, IoVector memory)
      REQUIRES_SHARED(graph_lock);
  Result<void> call_driver(Co& co, const Transfer& what, uint64_t offset, IoVector memory)
      REQUIRES_SHARED(graph_lock);
  Result<void> zero_aligned(Co& co, uint64_t offset, uint64_t size, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  Result<void> write_zero_bytes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags)
      REQUIRES_SHARED(graph_lock);
  uint64_t cut(IoVector memory, uint64_t done, std::span<iovec> out, IoVector& part) const;
  bool suits(IoVector memory) const noexcept;
  uint64_t bounce_bytes() const noexcept;
  size_t bounce_alignment() const noexcept;

  Graph& graph_;
  const std::unique_ptr<BlockDriver> driver_;
  NodeOptions options_;
  std::atomic<uint32_t> references_{0};
  std::atomic<uint64_t> length_{0};
  BlockLimits limits_;  // changes in write sections, or while nobody can reach the node
  std::vector<std::unique_ptr<Edge>> children_;
  ShardedCount in_flight_;
  RequestGate writes_;  // shut while a block is read, modified and written
  CoMutex modifying_;
  // Main only.
  std::vector<Edge*> parents_;
  Permissions needs_;
  Permissions next_needs_;  // while a transaction is open
  unsigned quiesced_ = 0;
  mutable uint64_t last_walk_ = 0;  // that came by
  bool next_read_only_;             // what permissions are checked against
  bool opened_ = false;             // between the driver's open and close: it hears of drains
  bool listed_ = false;             // in the graph's table, under its name
};

}  // namespace rhea::block
