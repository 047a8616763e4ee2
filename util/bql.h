// The big lock (BQL): devices, the machine and the run state are changed only under it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "util/thread_annotations.h"

namespace rhea {

/// The one lock of "BQL code". Global, because it is the capability that the annotations name and
/// because a process runs one machine.
///
/// Thread: the main thread holds it except while it sleeps in its outermost poll, while it waits
/// for vCPUs and while it waits for RCU callbacks; a vCPU takes it for an exit that reaches a
/// region not marked lock-free. Iothreads, the RCU thread and pool workers never take it.
/// Invariants: not recursive; lowest rank, so nothing else is held when it is taken.
class CAPABILITY("bql") BigLock {
 public:
  BigLock() = default;
  BigLock(const BigLock&) = delete;
  BigLock& operator=(const BigLock&) = delete;

  void lock() ACQUIRE();
  void unlock() RELEASE();

  /// Whether the calling thread holds it.
  bool held() const noexcept;
  /// Aborts unless the calling thread holds it, and teaches the analysis that it does.
  void assert_held() const noexcept ASSERT_CAPABILITY(this);
  /// Aborts if the calling thread holds it.
  void assert_not_held() const noexcept;

  /// How often it was taken, by any thread; for tests and statistics.
  uint64_t acquisitions() const noexcept { return acquisitions_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::atomic<uint64_t> acquisitions_{0};  // relaxed: a statistic, orders nothing
};

extern BigLock bql;

/// Holds the BQL for a scope.
class SCOPED_CAPABILITY BqlGuard {
 public:
  BqlGuard() ACQUIRE(bql) { bql.lock(); }
  ~BqlGuard() RELEASE() { bql.unlock(); }
  BqlGuard(const BqlGuard&) = delete;
  BqlGuard& operator=(const BqlGuard&) = delete;
};

}  // namespace rhea
