// A driver for tests: a medium in memory whose requests can be held.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block/graph.h"
#include "util/co_sync.h"
#include "util/mutex.h"

namespace rhea::block::test {

/// Calls that a driver heard of drains.
struct DrainCalls {
  int begun = 0, ended = 0;
  bool before_open = false, after_close = false;
};

/// "test-disk": keeps its bytes in memory and counts every breach of the contract between a node
/// and its driver.
///
/// Options: `size`, `request-alignment`, `memory-alignment`, `max-transfer`, `max-pieces`,
/// `max-write-zeroes`, `max-discard`, `fua`, `zeroes`, `discards`.
/// Thread: requests anywhere; the rest from the test.
class TestDisk final : public BlockDriver {
 public:
  static constexpr std::string_view kName = "test-disk";
  static TestDisk& of(Node& node) { return dynamic_cast<TestDisk&>(node.driver()); }

  // For tests.
  /// Requests that come from now on wait until release(). Any thread.
  void hold() { holding_ = true; }
  void release();
  /// Those that wait go on waiting, new ones do not.
  void let_new_pass() { holding_ = false; }
  /// How many wait. A request kicks main when it begins to.
  int held() const { return held_; }
  int requests() const { return requests_; }
  int flushes() const { return flushes_; }
  int forced() const { return forced_; }
  int breaches() const { return breaches_; }
  /// Reads fail from now on, those that are held too. Any thread.
  void break_down() { broken_ = true; }
  /// While one request touches the medium others go on, so that they interleave.
  void yield_in_requests() { yields_ = true; }
  std::vector<std::byte> bytes() const {
    MutexLock lock(mutex_);
    return bytes_;
  }
  DrainCalls calls;  // main

  // BlockDriver.
  std::string_view name() const noexcept override { return kName; }
  Result<void> open(Gs& gs, OpenRequest& request) override;
  void close(Gs&) noexcept override { opened_ = false; }
  Result<uint64_t> measure(Gs&) override { return size_.load(); }
  BlockLimits limits(Gs&) const override { return limits_; }
  void drained_begin() noexcept override {
    ++calls.begun;
    calls.before_open |= !opened_;
    if (!opened_) ++breaches_;
  }
  void drained_end() noexcept override {
    ++calls.ended;
    calls.after_close |= !opened_;
    if (!opened_) ++breaches_;
  }
  WriteFlags write_flags() const noexcept override {
    return fua_ ? WriteFlags::kForceUnitAccess : WriteFlags::kNone;
  }
  WriteFlags zero_flags() const noexcept override { return write_flags(); }
  Result<void> co_read(Co& co, uint64_t offset, IoVector memory) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_discard(Co& co, uint64_t offset, uint64_t size) override
      REQUIRES_SHARED(graph_lock);
  Result<void> co_flush(Co& co) override REQUIRES_SHARED(graph_lock);
  Result<void> co_resize(Co&, uint64_t size) override REQUIRES_SHARED(graph_lock) {
    MutexLock lock(mutex_);
    bytes_.resize(size);
    size_ = size;
    return ok();
  }

 private:
  void begin(Co& co);
  void check(bool fine) { breaches_ += fine ? 0 : 1; }
  void check_range(uint64_t offset, uint64_t size, uint64_t most);
  void check_memory(uint64_t offset, IoVector memory);
  void check_flags(WriteFlags flags) { check(fua_ || !has(flags, WriteFlags::kForceUnitAccess)); }

  BlockLimits limits_;
  bool fua_ = false, zeroes_ = false, discards_ = false, opened_ = false, yields_ = false;
  Graph* graph_ = nullptr;
  std::atomic<uint64_t> size_{0};
  std::atomic<bool> holding_{false}, broken_{false};
  std::atomic<int> held_{0}, requests_{0}, flushes_{0}, forced_{0}, breaches_{0};
  mutable Mutex mutex_{LockRank::kLeaf};
  std::vector<std::byte> bytes_ GUARDED_BY(mutex_);
  rhea::internal::CoWaiterList waiting_ GUARDED_BY(mutex_);
};

inline void TestDisk::release() {
  rhea::internal::CoWaiter* waiting;
  {
    MutexLock lock(mutex_);
    holding_ = false;
    waiting = waiting_.take_all();
  }
  rhea::internal::wake_all(waiting);
}

inline Result<void> TestDisk::open(Gs&, OpenRequest& request) {
  OptionReader& o = request.options();
  graph_ = &request.graph();
  size_ = TRY(o.take_size("size")).value_or(uint64_t{1} << 20);
  const auto number = [&o](std::string_view key, uint64_t other) -> Result<uint64_t> {
    const auto given = TRY(o.take_uint(key));
    return given.value_or(other);
  };
  limits_.request_alignment = static_cast<uint32_t>(TRY(number("request-alignment", 1)));
  limits_.memory_alignment = static_cast<uint32_t>(TRY(number("memory-alignment", 1)));
  limits_.max_pieces = static_cast<uint32_t>(TRY(number("max-pieces", 1024)));
  limits_.max_transfer = TRY(number("max-transfer", 0));
  limits_.max_write_zeroes = TRY(number("max-write-zeroes", 0));
  limits_.max_discard = TRY(number("max-discard", 0));
  fua_ = TRY(o.take_bool("fua")).value_or(false);
  zeroes_ = TRY(o.take_bool("zeroes")).value_or(false);
  discards_ = TRY(o.take_bool("discards")).value_or(false);
  MutexLock lock(mutex_);
  bytes_.resize(size_);
  opened_ = true;
  return ok();
}

inline void TestDisk::begin(Co& co) {
  ++requests_;
  check(co.section_depth() == 1);
  if (yields_) co.reschedule();
  if (!holding_) return;
  rhea::internal::CoWaiter waiter(co.coroutine());
  {
    MutexLock lock(mutex_);
    if (!holding_) return;
    waiting_.push(waiter);
    ++held_;
  }
  graph_->kick();
  co.yield();
  --held_;
}

inline void TestDisk::check_range(uint64_t offset, uint64_t size, uint64_t most) {
  check(((offset | size) & (limits_.request_alignment - 1)) == 0);
  check(size != 0 && (most == 0 || size <= most));
  check(offset <= size_ && size <= size_ - offset);
}

inline void TestDisk::check_memory(uint64_t offset, IoVector memory) {
  check_range(offset, memory.size, limits_.max_transfer);
  check(memory.pieces.size() <= limits_.max_pieces);
  const uint32_t address = limits_.memory_alignment;
  check(memory.aligned(address, std::min(address, limits_.request_alignment)));
  check(IoVector::of(memory.pieces).size == memory.size);
}

inline Result<void> TestDisk::co_read(Co& co, uint64_t offset, IoVector memory) {
  check_memory(offset, memory);
  begin(co);
  if (broken_) return fail_errno(EIO, "the disk is broken");
  MutexLock lock(mutex_);
  memory.copy_from(0, std::span(bytes_).subspan(offset, memory.size));
  return ok();
}

inline Result<void> TestDisk::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  check_memory(offset, memory);
  check_flags(flags);
  begin(co);
  if (has(flags, WriteFlags::kForceUnitAccess)) ++forced_;
  MutexLock lock(mutex_);
  memory.copy_to(0, std::span(bytes_).subspan(offset, memory.size));
  return ok();
}

inline Result<void> TestDisk::co_write_zeroes(Co& co, uint64_t offset, uint64_t size,
                                              WriteFlags flags) {
  if (!zeroes_) return fail(ErrorKind::kUnsupported, "no zeroes");
  check_range(offset, size, limits_.max_write_zeroes);
  check_flags(flags);
  begin(co);
  if (has(flags, WriteFlags::kForceUnitAccess)) ++forced_;
  MutexLock lock(mutex_);
  std::ranges::fill(std::span(bytes_).subspan(offset, size), std::byte{0});
  return ok();
}

inline Result<void> TestDisk::co_discard(Co& co, uint64_t offset, uint64_t size) {
  if (!discards_) return fail(ErrorKind::kUnsupported, "no discard");
  check_range(offset, size, limits_.max_discard);
  begin(co);
  MutexLock lock(mutex_);
  std::ranges::fill(std::span(bytes_).subspan(offset, size), std::byte{0});
  return ok();
}

inline Result<void> TestDisk::co_flush(Co& co) {
  begin(co);
  ++flushes_;
  return ok();
}

}  // namespace rhea::block::test
