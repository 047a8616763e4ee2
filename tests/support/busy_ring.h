// Keeps a context's ring busy, so that the context sleeps in the ring.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "util/aio_context.h"
#include "util/check.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"

namespace rhea::test {

/// A read of a pipe that stays empty until finish().
/// Thread: the context's home thread, outside coroutines. The destructor polls the context.
class BusyRing {
 public:
  explicit BusyRing(AioContext& context) : context_(context), ring_(*context.io_ring()) {
    MUST(start_here(context, [this](Co& co) {
      const iovec part{byte_.data(), byte_.size()};
      result_ = ring_.co_readv(co, {.number = pipe_.read.get()}, {&part, 1}, 0);
      done_ = true;
    }));
  }
  ~BusyRing() {
    if (!done_) ring_.cancel_all();
    while (!done_) context_.poll(PollMode::kBlocking);
  }
  BusyRing(const BusyRing&) = delete;
  BusyRing& operator=(const BusyRing&) = delete;

  bool done() const { return done_; }
  int32_t result() const { return result_; }
  RingFile file() const { return {.number = pipe_.read.get()}; }
  /// Any thread.
  void finish() { MUST(write_all(pipe_.write.get(), "x")); }

 private:
  AioContext& context_;
  IoRing& ring_;
  const Pipe pipe_ = make_pipe().value();
  std::array<std::byte, 1> byte_{};
  bool done_ = false;
  int32_t result_ = 0;
};

enum class SleepsIn : uint8_t { kEpoll, kRing };

/// A context for tests that hold in either kind of sleep. Where the host refuses io_uring, both are
/// the one in epoll; the ring's own tests are skipped there.
class LoopUnderTest {
 public:
  explicit LoopUnderTest(SleepsIn sleeps_in) : context_(MUST(AioContext::create("test"))) {
    if (sleeps_in == SleepsIn::kRing && context_->io_ring() != nullptr) busy_.emplace(*context_);
  }

  AioContext* operator->() const { return context_.get(); }
  AioContext& operator*() const { return *context_; }
  AioContext* get() const { return context_.get(); }
  void reset() {
    busy_.reset();
    context_.reset();
  }

 private:
  std::unique_ptr<AioContext> context_;
  std::optional<BusyRing> busy_;
};

}  // namespace rhea::test
