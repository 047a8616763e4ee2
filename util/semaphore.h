// Semaphore: tokens that threads hand each other, with an end.
#pragma once

#include "util/mutex.h"

namespace rhea {

/// Counts tokens. Not std::counting_semaphore: that one can not end a wait for everybody, says
/// nothing of its count, and promises nothing about who is still inside when a wait returns.
///
/// Thread: any. A wait is legal where a Mutex of rank kLeaf is.
/// Invariants: outlives every post(): it belongs to whoever joins the threads that use it. What was
/// written before a post() is visible after the wait() that takes its token.
class Semaphore {
 public:
  explicit Semaphore(unsigned tokens = 0) : tokens_(tokens) {}
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;

  void post() EXCLUDES(mutex_);
  /// Takes a token; sleeps until there is one. False when closed with no token left: tokens that
  /// were posted, before the end or after, are still taken.
  [[nodiscard]] bool wait() EXCLUDES(mutex_);
  /// Ends all waits that find no token, now and from now on.
  void close() EXCLUDES(mutex_);
  /// Exact only while nobody posts or waits.
  unsigned tokens() const EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_{LockRank::kLeaf};
  CondVar changed_;
  unsigned tokens_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace rhea
