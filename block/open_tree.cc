// Graph::open() and reopen(): from options to nodes.
#include <algorithm>

#include "block/driver_table.h"
#include "block/graph.h"
#include "util/check.h"

namespace rhea::block {
namespace {

Result<void> set_bool(OptionReader& reader, std::string_view key, bool& value) {
  if (const auto given = TRY(reader.take_bool(key))) value = *given;
  return ok();
}

/// The options of every node, over what it takes from its parent.
Result<void> take_common(OptionReader& reader, NodeOptions& common) {
  TRY(set_bool(reader, "read-only", common.read_only));
  TRY(set_bool(reader, "auto-read-only", common.auto_read_only));
  TRY(set_bool(reader, "force-share", common.force_share));
  if (auto cache = TRY(reader.take_object("cache"))) {
    TRY(set_bool(*cache, "direct", common.cache_direct));
    TRY(set_bool(*cache, "no-flush", common.cache_no_flush));
    TRY(cache->finish());
  }
  constexpr std::array<std::string_view, 4> kDiscard{"ignore", "unmap", "off", "on"};
  if (const auto discard = TRY(reader.take_choice("discard", kDiscard))) {
    common.discard = *discard % 2 == 1;
  }
  return ok();
}

Result<void> check_common(const NodeOptions& common) {
  if (!common.force_share || common.read_only) return ok();
  return fail(ErrorKind::kInvalidArgument, "force-share=on can only be used with read-only images");
}

Error unknown_option(const NodeOptions& common, const std::string& key) {
  return fail(ErrorKind::kInvalidArgument, "Block format '{}' does not support the option '{}'",
              common.driver, key);
}

}  // namespace

/// One node being opened, and by recursion what is below it.
class OpenTree final : public OpenRequest {
 public:
  OpenTree(Gs& gs, Graph& graph, OptionReader reader)
      : gs_(gs), graph_(graph), reader_(std::move(reader)) {}

  /// `inherited` is the parent's, or the defaults.
  Result<NodeRef> open(const NodeOptions& inherited) {
    common_ = inherited;
    common_.driver = TRY(reader_.take_required("driver"));
    common_.node_name = TRY(reader_.take_identifier("node-name")).value_or("");
    TRY(take_common(reader_, common_));
    TRY(check_common(common_));
    auto driver = make_driver(common_.driver);
    if (driver == nullptr) {
      return fail(ErrorKind::kInvalidArgument, "Unknown driver '{}'", common_.driver);
    }
    const bool named = !common_.node_name.empty();
    if (named && graph_.find(gs_, common_.node_name) != nullptr) {
      return fail(ErrorKind::kExists, "Duplicate nodes with node-name='{}'", common_.node_name);
    }
    if (!named) common_.node_name = graph_.new_anonymous_name();
    NodeRef node(graph_.make_node(std::move(driver), common_));
    node_ = node.get();
    TRY(node_->driver_->open(gs_, *this));
    node_->opened_ = true;
    if (node_->quiesced_ != 0) node_->driver_->drained_begin();
    if (const auto unused = reader_.first_unused()) return unknown_option(common_, *unused);
    node_->options_ = common_;
    node_->next_read_only_ = common_.read_only;
    node_->limits_ = node_->driver_->limits(gs_);
    node_->length_ = TRY(node_->driver_->measure(gs_));
    if (graph_.find(gs_, common_.node_name) != nullptr) {  // a child took it
      return fail(ErrorKind::kExists, "Duplicate nodes with node-name='{}'", common_.node_name);
    }
    graph_.list(*node_);
    return node;
  }

  OptionReader& options() override { return reader_; }
  Graph& graph() override { return graph_; }
  Node& node() override { return *node_; }
  NodeOptions& common() override { return common_; }

  Result<Edge*> open_child(std::string_view name) override {
    NodeRef child;
    if (auto object = TRY(take_object_or_name(name, child))) {
      OpenTree below(gs_, graph_, *std::move(object));
      NodeOptions inherited = common_;
      inherited.node_name.clear();
      child = TRY(below.open(inherited));
    }
    node_->children_.push_back(std::make_unique<Edge>(*node_, std::string(name)));
    Edge& edge = *node_->children_.back();
    GraphTransaction transaction(gs_);
    transaction.set(edge, child.get());
    TRY(transaction.prepare());
    transaction.commit_unreachable();
    return &edge;
  }
  Node& child_of(const Edge& edge) override { return *edge.node(gs_); }

 private:
  /// The options of a new child; or none, and `child` is the node that they name.
  Result<std::optional<OptionReader>> take_object_or_name(std::string_view name, NodeRef& child) {
    if (reader_.is_string(name)) {
      const std::string reference = TRY(reader_.take_required(name));
      Node* node = graph_.find(gs_, reference);
      if (node == nullptr) {
        return fail(ErrorKind::kNotFound, "Cannot find device='{0}' nor node-name='{0}'",
                    reference);
      }
      child = NodeRef(*node);
      return std::optional<OptionReader>();
    }
    auto object = TRY(reader_.take_object(name));
    if (!object) {
      return fail(ErrorKind::kInvalidArgument, "A block device must be specified for \"{}\"", name);
    }
    return object;
  }

  Gs& gs_;
  Graph& graph_;
  OptionReader reader_;
  NodeOptions common_;
  Node* node_ = nullptr;
};

/// One node whose options change, of those that change together.
class ReopenTree final : public OpenRequest {
 public:
  ReopenTree(Gs& gs, Graph& graph, Node& node, OptionReader reader, GraphTransaction& transaction)
      : gs_(gs),
        graph_(graph),
        node_(node),
        reader_(std::move(reader)),
        transaction_(transaction) {}
  ~ReopenTree() override { node_.next_read_only_ = node_.read_only(); }

  /// Records what it needs in the transaction, which the caller prepares.
  Result<void> prepare() {
    common_.node_name = node_.name();
    common_.driver = TRY(reader_.take_required("driver"));
    if (common_.driver != node_.options().driver) {
      return fail(ErrorKind::kInvalidArgument, "Cannot change the option 'driver'");
    }
    TRY(take_common(reader_, common_));
    TRY(check_common(common_));
    state_ = TRY(node_.driver_->reopen(gs_, *this));
    if (const auto unused = reader_.first_unused()) return unknown_option(common_, *unused);
    node_.next_read_only_ = common_.read_only;
    transaction_.recheck(node_);
    return ok();
  }
  /// Requests look at the options: they change where none is under way.
  void commit(GraphWrite& write) {
    node_.options_ = common_;
    if (state_ != nullptr) state_->commit(write);
  }
  Node& node() override { return node_; }

  OptionReader& options() override { return reader_; }
  Graph& graph() override { return graph_; }
  NodeOptions& common() override { return common_; }

  /// The child stays, or is another node that has a name.
  Result<Edge*> open_child(std::string_view name) override {
    const auto children = node_.children(gs_);
    const auto edge = std::ranges::find(children, name, [](const auto& e) { return e->name(); });
    RHEA_CHECK(edge != children.end(), "a driver reopens a child that it did not open");
    Node* child = (*edge)->node(gs_);
    if (!reader_.has(name)) {
      return fail(ErrorKind::kInvalidArgument, "Option '{}' must be given: a node's name", name);
    }
    const std::string reference = TRY(reader_.take_required(name));
    if (child != nullptr && reference == child->name()) return edge->get();
    Node* other = graph_.find(gs_, reference);
    if (other == nullptr) {
      return fail(ErrorKind::kNotFound, "Cannot find device='{0}' nor node-name='{0}'", reference);
    }
    transaction_.set(**edge, other);
    return edge->get();
  }
  Node& child_of(const Edge& edge) override { return *transaction_.next_of(edge); }

 private:
  Gs& gs_;
  Graph& graph_;
  Node& node_;
  OptionReader reader_;
  NodeOptions common_;
  GraphTransaction& transaction_;
  std::unique_ptr<ReopenState> state_;
};

Result<NodeRef> Graph::open(Gs& gs, OptionTree options) {
  OpenTree tree(gs, *this, OptionReader(std::move(options)));
  auto node = tree.open({});
  if (!node) close_unused(gs);  // what was opened on the way
  return node;
}

Result<NodeRef> Graph::add_filter(Gs& gs, std::unique_ptr<FilterDriver> driver, std::string name,
                                  Node& child) {
  NodeOptions options = child.options();
  options.driver = driver->name();
  options.node_name = name.empty() ? new_anonymous_name() : std::move(name);
  if (find(gs, options.node_name) != nullptr) {
    return fail(ErrorKind::kExists, "Duplicate nodes with node-name='{}'", options.node_name);
  }
  FilterDriver& filter = *driver;
  NodeRef node(make_node(std::move(driver), options));
  node->children_.push_back(std::make_unique<Edge>(*node, "file"));
  filter.set_child(*node->children_.back());
  GraphTransaction transaction(gs);
  transaction.set(*node->children_.back(), &child);
  TRY(transaction.prepare());
  transaction.commit_unreachable();
  node->opened_ = true;
  node->measure(gs);
  list(*node);
  return node;
}

Result<void> Graph::reopen(Gs& gs, std::vector<OptionTree> options) {
  auto result = reopen_all(gs, std::move(options));
  close_unused(gs);
  return result;
}

Result<void> Graph::reopen_all(Gs& gs, std::vector<OptionTree> options) {
  GraphTransaction transaction(gs);
  std::vector<std::unique_ptr<ReopenTree>> trees;
  for (OptionTree& tree : options) {
    OptionReader reader(std::move(tree));
    const std::string name = TRY(reader.take_required("node-name"));
    Node* node = find(gs, name);
    if (node == nullptr) {
      return fail(ErrorKind::kNotFound, "Failed to find node with node-name='{}'", name);
    }
    if (std::ranges::any_of(trees, [&](const auto& other) { return &other->node() == node; })) {
      return fail(ErrorKind::kInvalidArgument, "Node '{}' is to be reopened twice at once", name);
    }
    trees.push_back(std::make_unique<ReopenTree>(gs, *this, *node, std::move(reader), transaction));
    TRY(trees.back()->prepare());
  }
  TRY(transaction.prepare());
  return change(gs, [&](GraphWrite& write) {
    transaction.commit(write);
    for (const auto& tree : trees) tree->commit(write);
    for (const auto& tree : trees) measure(gs, tree->node());
  });
}

Node& Graph::make_node(std::unique_ptr<BlockDriver> driver, const NodeOptions& options) {
  Node* node = new Node(*this, std::move(driver), options);
  all_.push_back(node);
  // As quiet as all others.
  for (unsigned i = 0; i < drained_all_; ++i) node->quiesce();
  return *node;
}

void Graph::list(Node& node) {
  by_name_.emplace(node.name(), &node);
  node.listed_ = true;
}

std::string Graph::new_anonymous_name() { return fmt::format("#block{:03}", next_anonymous_++); }

}  // namespace rhea::block
