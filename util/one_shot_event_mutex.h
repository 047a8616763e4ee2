// OneShotEventMutex: OneShotEvent by the book, for hosts and tools that know no futex.
#pragma once

#include <chrono>

#include "util/mutex.h"

namespace rhea {

/// The same contract as OneShotEvent, I0 included, on a mutex and a condition variable; the
/// reference against which the futex build is tested.
///
/// Thread: as OneShotEvent.
/// Invariants: the flag changes and the notification happens under the mutex, so a waiter can not
/// return before the setter has begun to unlock, which is its last access.
class OneShotEventMutex {
 public:
  void set() {
    MutexLock lock(mutex_);
    set_ = true;
    changed_.notify_one();
  }
  void wait() {
    MutexLock lock(mutex_);
    while (!set_) changed_.wait(mutex_);
  }
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mutex_);
    while (!set_) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= left.zero()) return false;
      changed_.wait_for(mutex_, left);
    }
    return true;
  }
  bool is_set() const {
    MutexLock lock(mutex_);
    return set_;
  }
  void reset() {
    MutexLock lock(mutex_);
    set_ = false;
  }

 private:
  mutable Mutex mutex_{LockRank::kLeaf};
  CondVar changed_;
  bool set_ GUARDED_BY(mutex_) = false;
};

}  // namespace rhea
