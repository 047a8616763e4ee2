// What every test of the block layer stands on: a main loop, a graph and iothreads.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "block/graph.h"
#include "tests/unit/block/test_drivers.h"
#include "util/bql.h"
#include "util/io_thread.h"
#include "util/options.h"
#include "util/rcu.h"

namespace rhea::block::test {

inline OptionTree options(std::string_view text) { return MUST(parse_options(text)); }

/// What does not mind others.
inline constexpr Permissions kReader{.taken = Perm::kConsistentRead, .shared = Perm::kAll};

/// Main's side. The BQL is held as long as it lives. The graph goes before the threads have ended:
/// a coroutine whose end a test waits for kicks the loop's waiter, not the graph.
class BlockFixture {
 public:
  // Unchecked: the destructor gives the BQL back.
  BlockFixture() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    set_extra_drivers(kTestDrivers);
    loop_ = MUST(MainLoop::create());
    pool_ = std::make_unique<ThreadPool>(ThreadPool::Limits{});
    graph_ = std::make_unique<Graph>(*loop_, *pool_);
  }
  // Unchecked: the constructor took the BQL.
  ~BlockFixture() NO_THREAD_SAFETY_ANALYSIS {
    contexts_.clear();
    graph_.reset();
    threads_.clear();
    pool_.reset();
    loop_.reset();
    bql.unlock();
  }

  Graph& graph() { return *graph_; }
  MainLoop& loop() { return *loop_; }
  AioContext& main() { return loop_->block(); }
  Gs& gs() {
    bql.assert_held();
    return loop_->gs();
  }

  /// A thread with an event loop that can run block requests.
  AioContext& add_thread() {
    AioContext& thread = add_plain_thread();
    contexts_.push_back(MUST(BlockContext::create(thread)));
    return thread;
  }

  /// A thread with an event loop alone.
  AioContext& add_plain_thread() {
    threads_.push_back(MUST(IOThread::create("io")));
    return threads_.back()->context();
  }

  /// Ends the thread that was added last, and its context.
  void remove_thread() {
    contexts_.pop_back();
    threads_.pop_back();
  }

  Node& add(std::string_view text) { return *MUST(graph_->add(gs(), options(text))); }

  /// Runs what main's block context has to do, until nothing is left.
  void settle_main() {
    while (main().poll(PollMode::kNonBlocking)) {
    }
  }
  /// Polls main's block context until `done`, which must come.
  template <class F>
  void wait_until(F&& done) {
    REQUIRE(loop_->waiter().until(gs(), done, std::chrono::minutes(2)));
  }
  /// Turns the main loop, service context and all, until `done`.
  template <class F>
  void turn_until(F&& done) {
    bql.assert_held();
    while (!done()) loop_->turn();
  }

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Graph> graph_;
  std::vector<std::unique_ptr<IOThread>> threads_;
  std::vector<std::unique_ptr<BlockContext>> contexts_;
};

/// Bytes with a pattern that shows where they came from.
inline std::vector<std::byte> pattern(size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(seed + i * 7 + (i >> 8));
  return bytes;
}

inline IoVector vector_of(std::span<std::byte> bytes, iovec& piece) {
  piece = {.iov_base = bytes.data(), .iov_len = bytes.size()};
  return IoVector::of(std::span(&piece, 1));
}

inline Result<void> read(BlockFixture& f, BlockBackend& backend, AioContext& where, uint64_t offset,
                         std::span<std::byte> bytes) {
  iovec piece;
  return f.graph().run_sync(
      f.gs(), where, [&](Co& co) { return backend.co_read(co, offset, vector_of(bytes, piece)); });
}

inline Result<void> write(BlockFixture& f, BlockBackend& backend, AioContext& where,
                          uint64_t offset, std::span<std::byte> bytes,
                          WriteFlags flags = WriteFlags::kNone) {
  iovec piece;
  return f.graph().run_sync(f.gs(), where, [&](Co& co) {
    return backend.co_write(co, offset, vector_of(bytes, piece), flags);
  });
}

}  // namespace rhea::block::test
