// ThrottleGroupObject: -object throttle-group: limits that throttle nodes share.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "block/graph.h"
#include "vmm/object_table.h"

namespace rhea::vmm {

/// A group of the graph's.
/// Thread: main, service context, BQL held. Owns: nothing: the graph has the group.
class ThrottleGroupObject final : public UserObject {
 public:
  static constexpr std::string_view kType = "throttle-group";
  static std::span<const ObjectProperty> properties();

  /// Errors: limits that make no sense, or not together.
  static Result<std::unique_ptr<UserObject>> create(Gs& gs, block::Graph& graph,
                                                    const std::string& id, OptionReader& options);

  block::ThrottleGroup& group() const noexcept { return group_; }
  Gs& gs() const;
  std::string user() const override;
  Result<void> retire(Gs& gs) override;

 private:
  ThrottleGroupObject(block::Graph& graph, block::ThrottleGroup& group)
      : graph_(graph), group_(group) {}

  block::Graph& graph_;
  block::ThrottleGroup& group_;
};

}  // namespace rhea::vmm
