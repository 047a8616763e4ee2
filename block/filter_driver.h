// FilterDriver: a driver that stands on one child and passes on what it does not change.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "block/driver.h"

namespace rhea::block {

/// The base of filters: every request goes to the child as it came, and the length and the limits
/// are the child's. A filter overrides what it is there for, and passes on by `below().co_...`.
///
/// Its child is named by an option. A filter with more options overrides open() and reopen(), and
/// calls these for the child.
///
/// Thread, Errors: see BlockDriver.
class FilterDriver : public BlockDriver {
 public:
  Result<void> open(Gs& gs, OpenRequest& request) override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  /// For a filter that no options open, before anything is asked of it: see Graph::add_filter().
  void set_child(const Edge& child) noexcept { child_ = &child; }

  Result<uint64_t> measure(Gs& gs) override;
  BlockLimits limits(Gs& gs) const override;
  bool is_filter() const noexcept override { return true; }
  WriteFlags write_flags() const noexcept override { return WriteFlags::kForceUnitAccess; }
  WriteFlags zero_flags() const noexcept override {
    return WriteFlags::kForceUnitAccess | WriteFlags::kMayUnmap | WriteFlags::kNoFallback;
  }

  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock);
  Result<void> co_resize(Co& co, uint64_t size) override REQUIRES_SHARED(graph_lock);
  Result<BlockStatus> co_status(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);

 protected:
  explicit FilterDriver(std::string_view child_option = "file") : child_option_(child_option) {}

  Node& below() const REQUIRES_SHARED(graph_lock);
  Node& below(Gs& gs) const;

 private:
  const std::string_view child_option_;
  const Edge* child_ = nullptr;
};

}  // namespace rhea::block
