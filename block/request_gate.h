// RequestGate: a door for requests that can be shut.
#pragma once

#include <atomic>

#include "block/block_context.h"
#include "util/co_sync.h"
#include "util/coroutine.h"
#include "util/main_wait.h"
#include "util/mutex.h"

namespace rhea::block {

/// What the gate is made of; tests replace a part to show what it is for.
struct RequestGatePolicy {
  static void fence_after_entering() noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  static void fence_after_shutting() noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
};

/// Counts the requests inside, on any number of contexts, without a line that they share; while it
/// is shut, requests that come wait outside, and once it opens each goes in once.
///
///   request                                    who shuts
///   1 own cell + 1; fence                      1 shut; fence
///   2 shut? then park under the lock (if       2 look at the sum, wait until it is 0
///     still shut), own cell - 1, tell who
///     waits; 1 again once woken
/// Of two that cross, at least one sees the other, so after 2 the sum only falls, and is exact.
///
/// Thread: enter() and leave() in coroutines; shut() and open() by one at a time, on any thread.
/// Invariants: a request is let go by a leave() in any context. Destroyed empty.
/// Models: tests/models/graph_drain.pml, store_buffer.pml.
template <class Policy = RequestGatePolicy>
class BasicRequestGate {
 public:
  /// For who waits in a coroutine, in wait_until_empty().
  BasicRequestGate() = default;
  /// For main, which waits by `main` until inside() is 0. Then the gate may go at once: whoever
  /// leaves touches nothing of it afterwards.
  explicit BasicRequestGate(MainWait& main) : main_(&main) {}
  ~BasicRequestGate();
  BasicRequestGate(const BasicRequestGate&) = delete;
  BasicRequestGate& operator=(const BasicRequestGate&) = delete;

  void enter(Co& co);
  /// Goes in even while it is shut.
  void pass(Co& co) { inside_.add(BlockContext::of(co)); }
  void leave(Co& co);

  void shut() noexcept;
  void open();
  bool is_shut() const noexcept { return shut_.load(std::memory_order_acquire); }
  /// Exact while shut.
  int64_t inside() const noexcept { return inside_.sum(); }
  /// Suspends until nobody is inside. By the coroutine that shut it.
  void wait_until_empty(Co& co);

 private:
  void wake_waiter();

  MainWait* const main_ = nullptr;
  ShardedCount inside_;
  std::atomic<bool> shut_{false};
  Mutex mutex_{LockRank::kLeaf};
  rhea::internal::CoWaiterList parked_ GUARDED_BY(mutex_);
  Coroutine* waits_for_empty_ GUARDED_BY(mutex_) = nullptr;
};

using RequestGate = BasicRequestGate<>;

}  // namespace rhea::block
