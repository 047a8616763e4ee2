// GraphTransaction: several edges change together or not at all.
#include <algorithm>
#include <ranges>

#include "block/graph.h"
#include "util/check.h"

namespace rhea::block {

GraphTransaction::~GraphTransaction() {
  if (!committed_) {
    for (Node* node : prepared_) node->driver_->abort_permissions(gs_);
  }
  for (Edge* edge : edges_) {
    edge->changing_ = false;
    edge->next_node_ = {};
  }
  for (Node* node : order_) {
    for (const auto& child : node->children_) child->changing_ = false;
  }
}

void GraphTransaction::set(Edge& edge, Node* node, Permissions permissions) {
  RHEA_CHECK(!edge.changing_, "an edge is changed twice in one transaction");
  edge.changing_ = true;
  edge.next_node_ = node != nullptr ? NodeRef(*node) : NodeRef();
  edge.next_permissions_ = permissions;
  edges_.push_back(&edge);
}

Node* GraphTransaction::next_of(const Edge& edge) const {
  return (std::ranges::find(edges_, &edge) != edges_.end() ? edge.next_node_ : edge.node_).get();
}

/// The edges that will lead to `node`; those that come first, as a conflict is theirs.
std::vector<Edge*> GraphTransaction::next_parents(Node& node) const {
  std::vector<Edge*> parents;
  for (Edge* edge : edges_) {
    if (edge->node_.get() != &node && edge->next_node_.get() == &node) parents.push_back(edge);
  }
  for (Edge* edge : node.parents_) {
    if (next_of(*edge) == &node) parents.push_back(edge);
  }
  return parents;
}

/// Appends `node` and all below it after everything that leads to them. Errors: a cycle.
Result<void> GraphTransaction::visit(Node& node, std::vector<Node*>& path,
                                     std::vector<Node*>& done) const {
  if (std::ranges::find(path, &node) != path.end()) {
    return fail(ErrorKind::kInvalidArgument, "Making '{}' a child of '{}' would create a cycle",
                node.name(), path.back()->name());
  }
  if (std::ranges::find(done, &node) != done.end()) return ok();
  path.push_back(&node);
  for (const auto& child : node.children_) {
    if (Node* below = next_of(*child)) TRY(visit(*below, path, done));
  }
  path.pop_back();
  done.push_back(&node);
  return ok();
}

/// What the node's users will need, if they can have it together.
Result<Permissions> GraphTransaction::gather(Node& node) const {
  Permissions needs;
  const std::vector<Edge*> parents = next_parents(node);
  for (const Edge* edge : parents) {
    const Permissions& want = next_permissions(*edge);
    for (const Edge* other : parents) {
      const Permissions& has = next_permissions(*other);
      const Perm conflict = want.taken & ~has.shared;
      if (edge == other || conflict == Perm::kNone) continue;
      return fail(ErrorKind::kPermission,
                  "Permission conflict on node '{0}': permissions '{1}' are both required by {2} "
                  "(uses node '{0}' as '{3}' child) and unshared by {4} (uses node '{0}' as '{5}' "
                  "child).",
                  node.name(), to_string(conflict), edge->parent().describe(), edge->name(),
                  other->parent().describe(), other->name());
    }
    needs.taken = needs.taken | want.taken;
    needs.shared = needs.shared & want.shared;
  }
  if (node.next_read_only_ && (needs.taken & (Perm::kWrite | Perm::kResize)) != Perm::kNone) {
    return fail(ErrorKind::kPermission, "Block node '{}' is read-only", node.name());
  }
  return needs;
}

const Permissions& GraphTransaction::next_permissions(const Edge& edge) const {
  return edge.changing_ ? edge.next_permissions_ : edge.permissions_;
}

Result<void> GraphTransaction::check_node(Node& node) {
  const Permissions needs = TRY(gather(node));
  node.next_needs_ = needs;
  for (const auto& child : node.children_) {
    if (next_of(*child) == nullptr) continue;
    child->changing_ = true;
    child->next_permissions_ = node.driver_->child_permissions(*child, needs);
  }
  TRY(node.driver_->prepare_permissions(gs_, needs));
  prepared_.push_back(&node);
  return ok();
}

Result<void> GraphTransaction::prepare() {
  // Everything below what changes, before and after: users that leave give rights back.
  std::vector<Node*> path, below_first;
  for (Edge* edge : edges_) {
    for (Node* node : {edge->node_.get(), edge->next_node_.get()}) {
      if (node != nullptr) TRY(visit(*node, path, below_first));
    }
    // A cycle through the edge itself shows only from its own parent.
    Node* parent = edge->parent().as_node();
    std::vector<Node*> from_parent;
    if (parent != nullptr && edge->next_node_) TRY(visit(*parent, path, from_parent));
  }
  for (Node* node : rechecked_) TRY(visit(*node, path, below_first));
  order_.assign(below_first.rbegin(), below_first.rend());
  for (Edge* edge : edges_) {
    if (Node* parent = edge->parent().as_node(); parent != nullptr) {
      edge->next_permissions_ = parent->driver_->child_permissions(*edge, parent->needs_);
    }
  }
  for (Node* node : order_) TRY(check_node(*node));
  return ok();
}

void GraphTransaction::apply() noexcept {
  for (Edge* edge : edges_) {
    Node* from = edge->node_.get();
    Node* to = edge->next_node_.get();
    if (from != to) move(*edge, from, to);
    edge->permissions_ = edge->next_permissions_;
  }
  for (Node* node : order_) {
    node->needs_ = node->next_needs_;
    for (const auto& child : node->children_) {
      if (child->changing_) child->permissions_ = child->next_permissions_;
    }
    node->driver_->commit_permissions(gs_, node->needs_);
  }
  committed_ = true;
}

/// The parent hears of a drain that the edge brings or takes away, once an edge (G17).
void GraphTransaction::move(Edge& edge, Node* from, Node* to) noexcept {
  const bool was = edge.drained_;
  const bool will = to != nullptr && to->quiesced_ != 0;
  if (from != nullptr) std::erase(from->parents_, &edge);
  std::swap(edge.node_, edge.next_node_);  // the old share goes when the transaction does
  if (to != nullptr) to->parents_.push_back(&edge);
  edge.drained_ = will;
  if (will && !was) edge.parent().drained_begin(edge);
  if (was && !will) edge.parent().drained_end(edge);
}

void GraphTransaction::commit(GraphWrite& write) noexcept {
  write.assert_held();
  apply();
}

void GraphTransaction::commit_unreachable() noexcept { apply(); }

}  // namespace rhea::block
