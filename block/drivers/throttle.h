// throttle: a filter whose requests go no faster than a group of nodes may.
#pragma once

#include <cstdint>
#include <memory>

#include "block/filter_driver.h"
#include "block/throttle_group.h"

namespace rhea::block {

/// Child `file`. Option `throttle-group`: the group's id, which can be changed when it is reopened.
/// Zeroes and discards count as writes of that size; flushes do not count.
/// Invariants: a request that waits for its turn goes at once when the node is drained.
class Throttle final : public FilterDriver {
 public:
  static constexpr std::string_view kName = "throttle";

  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  void drained_begin() noexcept override;
  void drained_end() noexcept override;
  /// None: a request counts as it came, before it is padded for the child.
  BlockLimits limits(Gs&) const override { return {}; }
  /// Null until it is open.
  const ThrottleGroup* group(Gs&) const noexcept {
    return member_ != nullptr ? &member_->group() : nullptr;
  }

  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);

 private:
  class Reopen;
  static Result<ThrottleGroup*> take_group(Gs& gs, OpenRequest& request);

  std::unique_ptr<ThrottleMember> member_;  // changes in write sections
  bool drained_ = false;                    // main
};

}  // namespace rhea::block
