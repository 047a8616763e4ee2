// null-co: reads and writes nothing, for measuring everything else.
#pragma once

#include "block/driver.h"

namespace rhea::block {

/// Options: `size` (1 GiB), `latency-ns` (0): every request takes that long, `read-zeroes` (off):
/// what is read is zeroed; without it memory is left as it is.
class NullCo final : public BlockDriver {
 public:
  static constexpr std::string_view kName = "null-co";

  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  Result<std::unique_ptr<ReopenState>> reopen(Gs& gs, OpenRequest& request) override;
  Result<uint64_t> measure(Gs&) override { return size_; }
  BlockLimits limits(Gs&) const override { return {}; }
  std::string filename() const override { return "null-co://"; }
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
  Result<void> take_options(OptionReader& reader);
  void wait(Co& co) const;

  std::atomic<uint64_t> size_{uint64_t{1} << 30};
  Nanoseconds latency_{0};
  bool read_zeroes_ = false;
};

}  // namespace rhea::block
