#include "block/graph.h"

#include <algorithm>
#include <ranges>

#include "util/check.h"
#include "util/log.h"

namespace rhea::block {

Graph::Graph(MainLoop& loop, ThreadPool& pool)
    : loop_(loop),
      pool_(pool),
      main_context_(MUST(BlockContext::create(loop.block()))),
      close_bh_(std::make_unique<Bh>(loop.service(), [this] {
        bql.assert_held();
        close_unused(loop_.gs());
      })) {
  graph_lock.set_waiter(&loop_.waiter());
}

Graph::~Graph() {
  bql.assert_held();
  users_.clear();
  close_unused(loop_.gs());
  RHEA_CHECK(all_.empty(), "the graph goes while somebody holds node '{}'", all_.front()->name());
  RHEA_CHECK(backends_.empty(), "the graph goes while '{}' uses it", backends_.front()->name());
  graph_lock.set_waiter(nullptr);
}

Node* Graph::find(Gs&, std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found != by_name_.end() ? found->second : nullptr;
}

Result<Node*> Graph::add(Gs& gs, OptionTree options) {
  if (options.find("node-name") == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "'node-name' must be specified for the root node");
  }
  NodeRef node = TRY(open(gs, std::move(options)));
  Node* added = node.get();
  users_.push_back(std::move(node));
  return added;
}

Result<void> Graph::del(Gs& gs, std::string_view name) {
  Node* node = find(gs, name);
  if (node == nullptr) {
    return fail(ErrorKind::kNotFound, "Failed to find node with node-name='{}'", name);
  }
  const auto user = std::ranges::find(users_, node, &NodeRef::get);
  if (!node->parents_.empty()) return fail(ErrorKind::kBusy, "Node {} is in use", name);
  if (user == users_.end()) {
    return fail(ErrorKind::kPermission, "Node {} is not owned by the monitor", name);
  }
  users_.erase(user);
  close_unused(gs);
  return ok();
}

void Graph::unused(const Node* node) noexcept {
  unused_.with([node](std::vector<const Node*>& nodes) { nodes.push_back(node); });
  close_bh_->schedule();
}

void Graph::close_unused(Gs& gs) {
  for (;;) {
    const std::vector<const Node*> nodes =
        unused_.with([](std::vector<const Node*>& list) { return std::exchange(list, {}); });
    if (nodes.empty()) return;
    // One may be listed twice, be gone already, or have found a new holder (by its name) meanwhile.
    for (const Node* unused : nodes) {
      const auto at = std::ranges::find(all_, unused);
      if (at == all_.end() || unused->references_.load(std::memory_order_acquire) != 0) continue;
      Node* node = *at;
      all_.erase(at);
      if (node->listed_) by_name_.erase(node->name());
      close(gs, std::unique_ptr<Node>(node));
    }
  }
}

/// Nothing leads to it: what its edges lead to can be left without a section.
void Graph::close(Gs& gs, std::unique_ptr<Node> node) {
  if (std::exchange(node->opened_, false)) node->driver_->close(gs);
  GraphTransaction transaction(gs);
  for (const auto& child : node->children_) transaction.set(*child, nullptr);
  if (const auto left = transaction.prepare(); !left) {
    // Giving rights back can not conflict; an image lock that could not be lowered stays as it is.
    RHEA_LOG(kBlock, kWarn, "closing node '{}': {}", node->name(), left.error().message());
  }
  transaction.commit_unreachable();
}

Result<void> Graph::resize(Gs& gs, Node& node, uint64_t bytes) {
  TRY(run_sync(gs, loop_.block(), [&](Co& co) -> Result<void> {
    GraphReadGuard reading(co);
    return node.co_resize(co, bytes);
  }));
  measure_below(gs, node, begin_walk());
  return ok();
}

void Graph::measure_below(Gs& gs, Node& node, uint64_t walk) noexcept {
  if (std::exchange(node.last_walk_, walk) == walk) return;
  for (const auto& child : node.children(gs)) {
    if (Node* below = child->node(gs)) measure_below(gs, *below, walk);
  }
  if (node.children(gs).empty()) measure(gs, node);  // and by that what is above
}

void Graph::measure(Gs& gs, Node& node) noexcept {
  node.measure(gs);
  tell_parents(gs, node);
}

std::vector<Edge*> Graph::move_parents(Gs&, Node& from, Node& to, GraphTransaction& transaction) {
  std::vector<Edge*> moved;
  for (Edge* edge : from.parents_) {
    if (edge->parent().as_node() == &to) continue;
    transaction.set(*edge, &to, edge->permissions_);
    moved.push_back(edge);
  }
  return moved;
}

void Graph::tell_parents(Gs& gs, Node& node) noexcept {
  const std::vector<Edge*> parents = node.parents_;  // a copy: who is told may change the list
  for (Edge* edge : parents) edge->parent().child_changed(gs, *edge);
}

Result<void> Graph::replace(Gs& gs, Node& from, Node& to) {
  GraphTransaction transaction(gs);
  move_parents(gs, from, to, transaction);
  TRY(transaction.prepare());
  return change(gs, [&](GraphWrite& write) {
    transaction.commit(write);
    tell_parents(gs, to);
  });
}

void Graph::quiesce_all() noexcept {
  ++drained_all_;
  for (Node* node : all_) node->quiesce();
}

void Graph::unquiesce_all() noexcept {
  --drained_all_;
  for (Node* node : all_) node->unquiesce();
}

bool Graph::all_idle() const noexcept {
  const uint64_t walk = begin_walk();
  return std::ranges::none_of(all_, [walk](const Node* node) { return node->busy(walk); });
}

/// Sections are strictly nested: what a body opened it has closed.
class Graph::Section {
 public:
  explicit Section(Graph& graph) : graph_(graph) { graph_.sections_.push_back(this); }
  ~Section() {
    RHEA_CHECK(graph_.sections_.back() == this, "drained sections overlap");
    graph_.sections_.pop_back();
  }
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

 private:
  Graph& graph_;
};

Result<void> Graph::with_drained(Gs& gs, Node& node, const DrainedBody& body,
                                 Nanoseconds deadline) {
  const Section section(*this);
  const NodeRef held(node);  // whatever its users do meanwhile
  node.quiesce();
  Result<void> result = loop_.waiter().until(
                            gs, [&node] { return !node.busy(); }, deadline)
                            ? ok()
                            : Result<void>(deadline_error(gs, deadline));
  if (result.has_value()) {
    DrainBypass bypass;
    result = body(bypass);
  }
  node.unquiesce();
  return result;
}

Result<void> Graph::with_all_drained(Gs& gs, const DrainedBody& body, Nanoseconds deadline) {
  const Section section(*this);
  quiesce_all();
  Result<void> result = loop_.waiter().until(
                            gs, [this] { return all_idle(); }, deadline)
                            ? ok()
                            : Result<void>(deadline_error(gs, deadline));
  if (result.has_value()) {
    DrainBypass bypass;
    result = body(bypass);
  }
  unquiesce_all();
  return result;
}

Result<void> Graph::change(Gs& gs, const std::function<void(GraphWrite&)>& body,
                           Nanoseconds deadline) {
  const auto began = std::chrono::steady_clock::now();
  return with_all_drained(
      gs,
      [&](DrainBypass&) -> Result<void> {
        // Readers that no drain knows of (queries in coroutines) are what is left to wait for.
        const Nanoseconds spent = std::chrono::steady_clock::now() - began;
        if (!graph_lock.write_lock(gs, std::max(deadline - spent, Nanoseconds(0)))) {
          return deadline_error(gs, deadline);
        }
        GraphWrite write;
        body(write);
        graph_lock.write_unlock(gs);
        return ok();
      },
      deadline);
}

Error Graph::deadline_error(Gs& gs, Nanoseconds deadline) {
  std::string text = oldest_request(gs);
  if (text.empty()) text = "a user of the block graph does not stop";
  return fail(ErrorKind::kTimeout, "Requests did not end within {} s: {}",
              std::chrono::duration_cast<std::chrono::seconds>(deadline).count(), text);
}

std::string Graph::oldest_request(Gs& gs, const BlockBackend* of) {
  struct Answers {
    bool over = false;  // nobody wants them any more, and contexts and graph may be gone
    size_t missing = 0;
    Nanoseconds oldest = Nanoseconds::max();
    std::string text;
  };
  auto answers = std::make_shared<Guarded<Answers>>();
  const Nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  const std::vector<BlockContext*>& contexts = graph_lock.contexts();
  answers->with([&](Answers& all) { all.missing = contexts.size(); });
  for (BlockContext* context : contexts) {
    context->aio().post([answers, context, of, now, this] {
      answers->with([&](Answers& all) {
        if (all.over) return;
        const TrackedRequest* request = context->oldest_request(of);
        if (request != nullptr && request->started() < all.oldest) {
          all.oldest = request->started();
          all.text = request->describe(now);
        }
        if (--all.missing == 0) kick();
      });
    });
  }
  // A context that does not answer is stuck itself, and then it matters little what it says.
  const auto all_here = [&] {
    return answers->with([](Answers& all) { return all.missing == 0; });
  };
  loop_.waiter().until(gs, all_here, std::chrono::milliseconds(200));
  return answers->with([](Answers& all) {
    all.over = true;
    return std::exchange(all.text, {});
  });
}

}  // namespace rhea::block
