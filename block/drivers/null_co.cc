#include "block/drivers/null_co.h"

#include "block/block_context.h"
#include "util/timer.h"

namespace rhea::block {

Result<void> NullCo::take_options(OptionReader& reader) {
  size_ = TRY(reader.take_size("size")).value_or(uint64_t{1} << 30);
  constexpr uint64_t kLongest = 60'000'000'000;
  latency_ = Nanoseconds(
      static_cast<int64_t>(TRY(reader.take_uint("latency-ns", 0, kLongest)).value_or(0)));
  read_zeroes_ = TRY(reader.take_bool("read-zeroes")).value_or(false);
  return ok();
}

Result<void> NullCo::open(Gs&, OpenRequest& request) { return take_options(request.options()); }

Result<std::unique_ptr<ReopenState>> NullCo::reopen(Gs&, OpenRequest& request) {
  NullCo other;
  TRY(other.take_options(request.options()));
  if (other.size_ != size_ || other.latency_ != latency_ || other.read_zeroes_ != read_zeroes_) {
    return fail(ErrorKind::kUnsupported, "Block driver '{}' can not change its options", kName);
  }
  return std::unique_ptr<ReopenState>();
}

void NullCo::wait(Co& co) const {
  if (latency_ == Nanoseconds(0)) return;
  Timer timer(BlockContext::of(co).aio().timers(), [&co] { co.coroutine().wake(); });
  timer.arm_after(latency_);
  co.yield();
}

Result<void> NullCo::co_read(Co& co, uint64_t, IoVector memory) {
  wait(co);
  if (read_zeroes_) memory.clear(0, memory.size);
  return ok();
}

Result<void> NullCo::co_write(Co& co, uint64_t, IoVector, WriteFlags) {
  wait(co);
  return ok();
}

Result<void> NullCo::co_write_zeroes(Co& co, uint64_t, uint64_t, WriteFlags) {
  wait(co);
  return ok();
}

Result<void> NullCo::co_discard(Co& co, uint64_t, uint64_t) {
  wait(co);
  return ok();
}

Result<void> NullCo::co_flush(Co& co) {
  wait(co);
  return ok();
}

Result<void> NullCo::co_resize(Co&, uint64_t size) {
  size_ = size;
  return ok();
}

Result<BlockStatus> NullCo::co_status(Co& co, uint64_t, uint64_t size) {
  wait(co);
  return BlockStatus{.bytes = size, .data = !read_zeroes_, .zero = read_zeroes_};
}

}  // namespace rhea::block
