// Mutex, MutexLock, CondVar and Guarded<T>: the only locks of the tree besides the BQL.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "util/lock_rank.h"
#include "util/thread_annotations.h"

namespace rhea {

class Co;

/// A ranked mutex that the thread-safety analysis understands (std::mutex carries no attributes
/// in libstdc++).
class CAPABILITY("mutex") Mutex {
 public:
  explicit Mutex(LockRank rank = LockRank::kLeaf) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE() {
    internal::note_lock_acquire(rank_);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    // The unlock comes last: it may be what lets another thread destroy us.
    internal::note_lock_release(rank_);
    mutex_.unlock();
  }

 private:
  const LockRank rank_;
  std::mutex mutex_;
};

/// Holds a Mutex for a scope.
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// A condition variable for Mutex and BigLock.
/// Invariants: it outlives every notify; never let it live on the stack of a waiter (a notifier may
/// still be inside notify when wait returns): OneShotEvent is for that.
class CondVar {
 public:
  /// Releases `lock`, sleeps, takes it again. May return early: loop on the condition.
  template <class Lock>
  void wait(Lock& lock) REQUIRES(lock) {
    cv_.wait(lock);
  }
  /// As wait, but no longer than `timeout`; false when the time ran out.
  template <class Lock>
  bool wait_for(Lock& lock, std::chrono::nanoseconds timeout) REQUIRES(lock) {
    return cv_.wait_for(lock, timeout) == std::cv_status::no_timeout;
  }
  void notify_one() noexcept { cv_.notify_one(); }
  void notify_all() noexcept { cv_.notify_all(); }

 private:
  std::condition_variable_any cv_;
};

/// A value that can be reached only under its own leaf lock.
template <class T>
class Guarded {
 public:
  template <class... Args>
  explicit Guarded(Args&&... args) : value_(std::forward<Args>(args)...) {}

  /// Calls `f(value)` with the lock held. `f` must be short, and can not suspend: it gets no Co.
  template <class F>
  auto with(F&& f) {
    static_assert(!std::is_invocable_v<F, T&, Co&>, "no coroutine token under a lock");
    MutexLock lock(mutex_);
    return std::forward<F>(f)(value_);
  }
  template <class F>
  auto with(F&& f) const {
    MutexLock lock(mutex_);
    return std::forward<F>(f)(std::as_const(value_));
  }

 private:
  mutable Mutex mutex_{LockRank::kLeaf};
  T value_ GUARDED_BY(mutex_);
};

}  // namespace rhea
