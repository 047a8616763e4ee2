// A device for tests, and the requests it sends.
#pragma once

#include <atomic>
#include <functional>

#include "tests/unit/block/block_fixture.h"

namespace rhea::block::test {

/// What a disk needs and lets others do.
inline constexpr Permissions kDisk{
    .taken = Perm::kConsistentRead | Perm::kWrite,
    .shared = Perm::kConsistentRead | Perm::kWriteUnchanged | Perm::kResize};

/// Counts what it is told, and does what a test says.
/// Thread: main; `busy` from any.
class FakeUser final : public BackendUser {
 public:
  void drained_begin() noexcept override {
    ++begun;
    if (const auto action = on_begin) action();  // a copy: it may replace itself
  }
  void drained_end() noexcept override {
    ++ended;
    if (const auto action = on_end) action();
  }
  bool drained_poll() const noexcept override {
    ++polls;
    return busy;
  }
  void resized(Gs&) noexcept override { ++resizes; }

  bool drained() const { return begun != ended; }

  int begun = 0, ended = 0, resizes = 0;
  mutable int polls = 0;
  std::atomic<bool> busy = false;
  std::function<void()> on_begin, on_end;
};

/// One-byte reads through a backend, in coroutines of their own. Destroyed when all are done.
/// Thread: any.
class Requests {
 public:
  Requests(BlockFixture& f, BlockBackend& backend) : f_(f), backend_(backend) {}
  ~Requests() { RHEA_CHECK(started_ == done_, "a test goes before its requests"); }

  /// `after` runs in the request's coroutine when it is over.
  void read(AioContext& where, std::function<void(Co&)> after = {}) {
    ++started_;
    MUST(spawn(where, [this, after = std::move(after)](Co& co) {
      std::byte byte{};
      iovec piece;
      const auto result = backend_.co_read(co, 0, vector_of({&byte, 1}, piece));
      if (after) after(co);
      failed_ += result.has_value() ? 0 : 1;
      MainWait& main = f_.loop().waiter();
      ++done_;
      main.kick();
    }));
  }
  int started() const { return started_; }
  int done() const { return done_; }
  int failed() const { return failed_; }

 private:
  BlockFixture& f_;
  BlockBackend& backend_;
  std::atomic<int> started_{0}, done_{0}, failed_{0};
};

}  // namespace rhea::block::test
