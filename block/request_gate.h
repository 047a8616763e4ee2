// RequestGate: a door for requests that can be shut.
#pragma once

#include <atomic>

#include "block/block_context.h"
#include "util/co_sync.h"
#include "util/coroutine.h"
#include "util/mutex.h"

namespace rhea::block {

/// Counts the requests inside, on any number of contexts, without a line that they share; while it
/// is shut, requests that come wait outside, and once it opens each goes in once.
///
///   request                                    who shuts
///   1 own cell + 1; fence                      1 shut; fence
///   2 shut? then own cell - 1, park under      2 look at the sum, wait until it is 0
///     the lock (if still shut); 1 again
/// Of two that cross, at least one sees the other, so after 2 the sum only falls, and is exact.
///
/// Thread: enter() and leave() in coroutines; shut() and open() by one at a time, on any thread.
/// Invariants: a request is let go by a leave() in any context. Destroyed empty.
class RequestGate {
 public:
  RequestGate() = default;
  ~RequestGate();
  RequestGate(const RequestGate&) = delete;
  RequestGate& operator=(const RequestGate&) = delete;

  void enter(Co& co);
  /// Wakes a coroutine in wait_until_empty(). Main, if it waits, is the caller's to kick.
  void leave(Co& co);

  void shut() noexcept;
  void open();
  bool is_shut() const noexcept { return shut_.load(std::memory_order_acquire); }
  /// Exact while shut.
  int64_t inside() const noexcept { return inside_.sum(); }
  /// Suspends until nobody is inside. By the coroutine that shut it.
  void wait_until_empty(Co& co);

 private:
  ShardedCount inside_;
  std::atomic<bool> shut_{false};
  Mutex mutex_{LockRank::kLeaf};
  rhea::internal::CoWaiterList parked_ GUARDED_BY(mutex_);
  Coroutine* waits_for_empty_ GUARDED_BY(mutex_) = nullptr;
};

}  // namespace rhea::block
