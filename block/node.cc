#include "block/node.h"

#include <algorithm>
#include <utility>

#include "block/graph.h"
#include "util/check.h"

namespace rhea::block {

NodeRef::NodeRef(Node& node) : node_(&node) {
  // relaxed: whoever adds a share has one, or is main and found the node in the table
  node.references_.fetch_add(1, std::memory_order_relaxed);
}

NodeRef::NodeRef(const NodeRef& other) : node_(other.node_) {
  if (node_ != nullptr) node_->references_.fetch_add(1, std::memory_order_relaxed);
}

NodeRef::~NodeRef() {
  if (node_ == nullptr) return;
  // The node may be gone with the share: main finds it by its name, holds it and lets it go.
  Graph& graph = node_->graph_;
  // acq_rel: what every holder did with the node comes before its end
  if (node_->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) graph.unused(node_);
}

Edge::~Edge() { RHEA_CHECK(!node_ && !changing_, "an edge goes while it leads somewhere"); }

Node::Node(Graph& graph, std::unique_ptr<BlockDriver> driver, NodeOptions options)
    : graph_(graph),
      driver_(std::move(driver)),
      options_(std::move(options)),
      next_read_only_(options_.read_only) {}

Node::~Node() {
  RHEA_CHECK(parents_.empty(), "a node goes while it has parents");
  RHEA_CHECK(in_flight_.sum() == 0, "a node goes while it has requests");
}

void Node::end_request(BlockContext& context) noexcept {
  MainWait& main = graph_.loop().waiter();  // node and graph may go once the count has fallen
  in_flight_.subtract(context);
  main.kick();
}

bool Node::active() const noexcept { return graph_.active(); }

std::string Node::describe() const { return fmt::format("node '{}'", name()); }

// A node whose child is drained is drained itself: it sends that child requests.
void Node::drained_begin(Edge&) noexcept { quiesce(); }
void Node::drained_end(Edge&) noexcept { unquiesce(); }
bool Node::drained_poll(const Edge&) const noexcept { return busy(); }

void Node::quiesce() noexcept {
  if (quiesced_++ > 0) return;
  // From the top: what still comes in from a parent finds the driver as it was.
  for (Edge* edge : parents_) {
    RHEA_CHECK(!edge->drained_);
    edge->drained_ = true;
    edge->parent().drained_begin(*edge);
  }
  if (opened_) driver_->drained_begin();
}

void Node::unquiesce() noexcept {
  RHEA_CHECK(quiesced_ > 0, "a drain ends that did not begin");
  if (--quiesced_ > 0) return;
  if (opened_) driver_->drained_end();
  for (Edge* edge : parents_) {
    RHEA_CHECK(edge->drained_);
    edge->drained_ = false;
    edge->parent().drained_end(*edge);
  }
}

bool Node::busy() const noexcept { return busy(graph_.begin_walk()); }

// By way of both sides of each diamond a node has exponentially many ways to one far above it.
bool Node::busy(uint64_t walk) const noexcept {
  if (std::exchange(last_walk_, walk) == walk) return false;
  return in_flight_.sum() != 0 || std::ranges::any_of(parents_, [walk](const Edge* edge) {
           const Node* above = edge->parent().as_node();
           return above != nullptr ? above->busy(walk) : edge->parent().drained_poll(*edge);
         });
}

// Who is above hears only what is new: by way of each side of stacked diamonds the same news would
// arrive exponentially often.
void Node::child_changed(Gs& gs, Edge&) noexcept {
  if (measure(gs)) graph_.tell_parents(gs, *this);
}

bool Node::measure(Gs& gs) noexcept {
  bool changed = false;
  // Requests read the limits, so they change only where none is under way; a mere change of length
  // happens under them.
  if (const BlockLimits limits = driver_->limits(gs); limits != limits_) {
    limits_ = limits;
    changed = true;
  }
  if (const auto length = driver_->measure(gs); length && *length != length_.load()) {
    length_.store(*length, std::memory_order_release);
    changed = true;
  }
  return changed;
}

}  // namespace rhea::block
