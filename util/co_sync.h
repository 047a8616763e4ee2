// CoMutex and CoQueue: waiting that suspends a coroutine and not its thread.
#pragma once

#include "util/coroutine.h"
#include "util/mutex.h"
#include "util/thread_annotations.h"

namespace rhea {

namespace internal {

/// A coroutine in a queue; lives on that coroutine's stack while it is suspended.
struct CoWaiter {
  explicit CoWaiter(Coroutine& c) : coroutine(c) {}
  Coroutine& coroutine;
  CoWaiter* next = nullptr;
};

/// First in, first out; guarded by its user's lock.
class CoWaiterList {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  void push(CoWaiter& waiter) noexcept {
    *tail_ = &waiter;
    tail_ = &waiter.next;
  }
  CoWaiter* pop() noexcept;
  /// Moves everything out, so that it can be woken without the lock.
  CoWaiter* take_all() noexcept;

 private:
  CoWaiter* head_ = nullptr;
  CoWaiter** tail_ = &head_;
};

/// Wakes `first` and those linked behind it, which are in no list any more. Without the list's
/// lock, which each of them may want at once.
void wake_all(CoWaiter* first);

}  // namespace internal

/// A lock that may be held across a yield. First come, first served: unlock() hands it over.
/// Thread: coroutines of any executor. Destroyed while free and without waiters (checked).
class CAPABILITY("co_mutex") CoMutex {
 public:
  CoMutex() = default;
  ~CoMutex();
  CoMutex(const CoMutex&) = delete;
  CoMutex& operator=(const CoMutex&) = delete;

  void lock(Co& co) ACQUIRE();
  /// By the coroutine that holds it.
  void unlock(Co& co) RELEASE();

 private:
  Mutex mutex_{LockRank::kLeaf};
  Coroutine* holder_ GUARDED_BY(mutex_) = nullptr;
  internal::CoWaiterList waiters_ GUARDED_BY(mutex_);
};

/// Holds a CoMutex for a scope.
class SCOPED_CAPABILITY CoMutexLock {
 public:
  CoMutexLock(Co& co, CoMutex& mutex) ACQUIRE(mutex) : co_(co), mutex_(mutex) { mutex_.lock(co); }
  ~CoMutexLock() RELEASE() { mutex_.unlock(co_); }
  CoMutexLock(const CoMutexLock&) = delete;
  CoMutexLock& operator=(const CoMutexLock&) = delete;

 private:
  Co& co_;
  CoMutex& mutex_;
};

/// Coroutines that wait for a condition, as a condition variable does for threads: they may wake
/// without it, so they loop.
/// Thread: coroutines of any executor; wake_one() and wake_all() from any thread. Destroyed empty.
class CoQueue {
 public:
  CoQueue() = default;
  ~CoQueue();
  CoQueue(const CoQueue&) = delete;
  CoQueue& operator=(const CoQueue&) = delete;

  /// Queues the coroutine, releases `mutex`, suspends, takes `mutex` again: no wake that follows
  /// the release is missed.
  void wait(Co& co, CoMutex& mutex) REQUIRES(mutex);
  /// Suspends. Only where no other thread wakes: else the condition may come true just before.
  void wait(Co& co);

  /// Wakes the longest-waiting coroutine; false if there is none.
  bool wake_one();
  void wake_all();
  bool empty() const;

 private:
  mutable Mutex mutex_{LockRank::kLeaf};
  internal::CoWaiterList waiters_ GUARDED_BY(mutex_);
};

}  // namespace rhea
