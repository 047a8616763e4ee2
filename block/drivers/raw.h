// raw: an image without a format, or a window on one.
#pragma once

#include <cstdint>
#include <optional>

#include "block/driver.h"

namespace rhea::block {

/// Child `file`. Options: `offset` (0) and `size` (all that follows): the part of the child that is
/// the disk; they can be changed when it is reopened. Everything else is the child's: its front
/// pads and cuts what does not suit it.
/// Errors: a window outside the child; kUnsupported to resize one of a given size.
class Raw final : public BlockDriver {
 public:
  static constexpr std::string_view kName = "raw";

  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  Permissions child_permissions(const Edge& child, const Permissions& needs) const override;
  Result<uint64_t> measure(Gs& gs) override;
  BlockLimits limits(Gs&) const override { return {}; }
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

 private:
  class Reopen;
  struct Window {
    uint64_t offset = 0;
    std::optional<uint64_t> size;
  };
  static Result<Window> take_window(OptionReader& reader);
  static Result<void> check(const Window& window, uint64_t length);

  Edge* file_ = nullptr;
  Window window_;                    // changes in write sections
  const Window* planned_ = nullptr;  // main only: of a reopen under way
};

}  // namespace rhea::block
