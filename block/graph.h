// Graph: the table of nodes and backends, and the only way to change what hangs on what.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/backend.h"
#include "block/block_context.h"
#include "block/drain.h"
#include "block/filter_driver.h"
#include "block/node.h"
#include "block/throttle_group.h"
#include "util/error.h"
#include "util/main_loop.h"
#include "util/options.h"
#include "util/thread_pool.h"

namespace rhea::block {

/// Changes to several edges that happen together or not at all.
///
/// Thread: main. Use: record changes, prepare() (checks cycles and permissions, takes image locks;
/// I/O goes on), then commit() inside a write section, or without one if no request can reach the
/// edges' parents; without commit() the destructor undoes what prepare() took.
/// Invariants: one at a time.
class GraphTransaction {
 public:
  explicit GraphTransaction(Gs& gs) : gs_(gs) {}
  ~GraphTransaction();
  GraphTransaction(const GraphTransaction&) = delete;
  GraphTransaction& operator=(const GraphTransaction&) = delete;

  /// Makes `edge` lead to `node` (null: nowhere), with `permissions` if its parent is no node.
  void set(Edge& edge, Node* node, Permissions permissions = {});
  /// Looks at `node`'s permissions again, because its options change.
  void recheck(Node& node) { rechecked_.push_back(&node); }
  /// Errors: kInvalidArgument for a cycle, kPermission for conflicting permissions; image locks.
  Result<void> prepare();
  /// The write section in which the world sees it.
  void commit(GraphWrite& write) noexcept;
  /// For edges of parents that no request can reach.
  void commit_unreachable() noexcept;
  /// Where `edge` will lead; null for nowhere.
  Node* next_of(const Edge& edge) const;

 private:
  void apply() noexcept;
  void move(Edge& edge, Node* from, Node* to) noexcept;
  const Permissions& next_permissions(const Edge& edge) const;
  std::vector<Edge*> next_parents(Node& node) const;
  Result<void> visit(Node& node, std::vector<Node*>& path, std::vector<Node*>& done) const;
  Result<Permissions> gather(Node& node) const;
  Result<void> check_node(Node& node);

  Gs& gs_;
  std::vector<Edge*> edges_;
  std::vector<Node*> rechecked_;
  std::vector<Node*> order_;  // parents before children
  std::vector<Node*> prepared_;
  bool committed_ = false;
};

/// The block graph of a machine.
///
/// Thread: main; run_sync's body runs where it is told.
/// Owns: main's BlockContext, the table of named nodes (a share of each that the user made).
/// Errors: texts are QEMU's where it has one.
class Graph {
 public:
  using DrainedBody = std::function<Result<void>(DrainBypass&)>;

  /// `pool` is for drivers whose system calls block.
  Graph(MainLoop& loop, ThreadPool& pool);
  /// Closes what is left. No backend has a node any more.
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  MainLoop& loop() noexcept { return loop_; }
  ThreadPool& pool() noexcept { return pool_; }
  BlockContext& main_context() noexcept { return *main_context_; }
  ThrottleGroups& throttle_groups() noexcept { return throttle_groups_; }

  /// Opens the tree that `options` describe ("driver" and the driver's own; "node-name"). The user
  /// holds the node from here until del(). Stalls nobody: nothing reaches a new tree.
  Result<Node*> add(Gs& gs, OptionTree options);
  /// As add(), but the caller holds it. "file" may be a name of a node.
  Result<NodeRef> open(Gs& gs, OptionTree options);
  /// Makes a filter above `child` that no options describe; nothing leads to it yet.
  Result<NodeRef> add_filter(Gs& gs, std::unique_ptr<FilterDriver> driver, std::string name,
                             Node& child);
  /// The user's hold on a node ends. Errors: kNotFound; kBusy, "Node x is in use".
  Result<void> del(Gs& gs, std::string_view name);
  /// Gives nodes other options, all of them in one section. Errors: any; nothing has changed then.
  Result<void> reopen(Gs& gs, std::vector<OptionTree> options);
  Result<void> reopen(Gs& gs, OptionTree options) {
    return reopen(gs, std::vector<OptionTree>(1, std::move(options)));
  }
  Node* find(Gs& gs, std::string_view name) const noexcept;
  /// Every node there is, anonymous ones included, in the order of making.
  std::span<Node* const> nodes(Gs&) const noexcept { return all_; }
  std::span<BlockBackend* const> backends(Gs&) const noexcept { return backends_; }
  /// Grows or shrinks a node and tells its users. Errors: the driver's.
  Result<void> resize(Gs& gs, Node& node, uint64_t bytes);
  /// Makes `edge`s that lead to `from` lead to `to`, but those of `to` itself.
  Result<void> replace(Gs& gs, Node& from, Node& to);

  /// The same as part of a larger change; tell_parents() is the caller's, in the write section.
  std::vector<Edge*> move_parents(Gs& gs, Node& from, Node& to, GraphTransaction& transaction);
  /// Tells the users of `node` that they may have another one now.
  void tell_parents(Gs& gs, Node& node) noexcept;

  // Who may write the images: this process, or another (the other side of a migration). Inactive,
  // nothing holds an image lock, reads are served, and every request that would change something
  // fails with kPermission. What is opened meanwhile is inactive, too.
  /// Changes in write sections. Main, or under the graph lock.
  bool active() const noexcept { return active_; }
  /// Flushes everything and gives up all image locks. What is to be opened inactive needs this
  /// first. Errors: a job that writes; a flush; kTimeout. All is as it was then.
  Result<void> inactivate_all(Gs& gs, Nanoseconds deadline = kDrainDeadline);
  /// What inactivate_all() asks first. Errors: kBusy, with the job.
  Result<void> check_no_job_writes(Gs& gs) const;
  /// Takes the image locks, and looks at the lengths again. Errors: kBusy, with every image that
  /// can not be locked; kTimeout. No lock is held then.
  Result<void> activate_all(Gs& gs, Nanoseconds deadline = kDrainDeadline);

  /// Runs `body(Co&)` as a coroutine of `where` and waits for it, polling the block context. Legal
  /// with nothing of the graph held, outside coroutines and RCU sections (G4).
  template <class F>
  auto run_sync(Gs& gs, AioContext& where, F&& body) -> std::invoke_result_t<F&, Co&>;

  /// Makes `node` quiet, calls `body(DrainBypass&)`, and lets it go.
  /// Errors: kTimeout, naming the oldest request; nothing is drained then, and `body` did not run.
  Result<void> with_drained(Gs& gs, Node& node, const DrainedBody& body,
                            Nanoseconds deadline = kDrainDeadline);
  Result<void> with_all_drained(Gs& gs, const DrainedBody& body,
                                Nanoseconds deadline = kDrainDeadline);
  /// The write section (G6): drains everything, waits for the readers to leave, calls
  /// `body(GraphWrite&)`, which can not fail, poll or yield, and lets all go on.
  /// Errors: as with_drained().
  Result<void> change(Gs& gs, const std::function<void(GraphWrite&)>& body,
                      Nanoseconds deadline = kDrainDeadline);

  /// Closes nodes whose last share has gone. Runs by itself, on the service context; here for who
  /// can not wait for that (a file is to be unlocked when blockdev-del has answered).
  void close_unused(Gs& gs);

  /// "request 17 on node 'd0', a read of 512 bytes at 0, is 5.0 s old": the oldest under way, of
  /// all or of one backend. Empty if there is none. Polls: each event loop looks at its own.
  std::string oldest_request(Gs& gs, const BlockBackend* of = nullptr);

  unsigned drained_all() const noexcept { return drained_all_; }
  /// Any thread: something that a drain may wait for has changed.
  void kick() noexcept { loop_.waiter().kick(); }

 private:
  friend class Node;
  friend class NodeRef;
  friend class BlockBackend;
  friend class OpenTree;
  friend class ReopenTree;
  class Section;

  Result<void> reopen_all(Gs& gs, std::vector<OptionTree> options);
  Node& make_node(std::unique_ptr<BlockDriver> driver, const NodeOptions& options);
  void list(Node& node);
  void close(Gs& gs, std::unique_ptr<Node> node);
  /// The node has another length or other limits: tells its users.
  void measure(Gs& gs, Node& node) noexcept;
  /// As measure(), from the bottom: what is below has been resized through it.
  void measure_below(Gs& gs, Node& node, uint64_t walk) noexcept;
  Result<void> flush_all(Gs& gs, Nanoseconds deadline);
  Result<void> prepare_to_activate(Gs& gs, std::vector<Node*>& prepared);
  void unused(const Node* node) noexcept;  // any thread; the node may be gone
  Error deadline_error(Gs& gs, Nanoseconds deadline);
  void quiesce_all() noexcept;
  void unquiesce_all() noexcept;
  bool all_idle() const noexcept;
  /// The number of a look at the graph in which each node is to be seen once. Main.
  uint64_t begin_walk() const noexcept { return ++walks_; }
  std::string new_anonymous_name();

  MainLoop& loop_;
  ThreadPool& pool_;
  std::unique_ptr<BlockContext> main_context_;
  ThrottleGroups throttle_groups_;
  std::map<std::string, Node*, std::less<>> by_name_;
  std::vector<Node*> all_;
  std::vector<NodeRef> users_;  // what add() made
  std::vector<BlockBackend*> backends_;
  bool active_ = true;  // changes in write sections
  unsigned drained_all_ = 0;
  std::vector<const Section*> sections_;  // open ones, innermost last
  uint64_t next_anonymous_ = 1;
  mutable uint64_t walks_ = 0;
  Guarded<std::vector<const Node*>> unused_;
  std::unique_ptr<Bh> close_bh_;
};

template <class F>
auto Graph::run_sync(Gs& gs, AioContext& where, F&& body) -> std::invoke_result_t<F&, Co&> {
  using R = std::invoke_result_t<F&, Co&>;
  struct State {
    F& body;
    MainWait& waiter;
    std::optional<R> result;
    std::atomic<bool> done{false};
  } state{body, loop_.waiter(), {}, {}};
  // The coroutine's last act on this frame is the store; the kick is the loop's own object.
  auto started = spawn(where, [&state](Co& co) {
    MainWait& waiter = state.waiter;
    state.result.emplace(state.body(co));
    state.done.store(true, std::memory_order_release);
    waiter.kick();
  });
  if (!started) return std::move(started).error();
  loop_.waiter().until(gs, [&state] { return state.done.load(std::memory_order_acquire); });
  return *std::move(state.result);
}

}  // namespace rhea::block
