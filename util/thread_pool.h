// ThreadPool: a few threads for system calls that block.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "util/clock.h"
#include "util/error.h"
#include "util/executor.h"

namespace rhea {

/// Names a submitted job to cancel().
enum class PoolJobId : uint64_t {};

enum class PoolOutcome : uint8_t { kRan, kCancelled };

/// Workers for blocking system calls, where the host offers no asynchronous form.
///
/// Jobs start in the order of their submission. Each job's `done` is called exactly once, on the
/// home thread of the executor it names, after its work has run or was cancelled.
/// Thread: submit() and cancel() from any; drain(), stop() and destruction on a thread that is no
/// worker, outside RCU read sections. Workers never take the BQL.
/// Owns: its threads: none at first, one more whenever a job finds no idle one, up to
/// `most_threads`; one that stays idle for `idle_time` ends. Invariants: an executor that is named
/// in a submission outlives the call of its `done`.
class ThreadPool {
 public:
  struct Limits {
    unsigned most_threads = 64;
    Nanoseconds idle_time = std::chrono::seconds(10);
  };
  using Work = std::move_only_function<void()>;
  using Done = std::move_only_function<void(PoolOutcome)>;

  explicit ThreadPool(const Limits& limits);
  /// As stop().
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Runs `work` on a worker, then `done` on the home thread of `reply_to`.
  /// Errors: kResource when the host gives no thread and there is none; neither is called then.
  Result<PoolJobId> submit(Executor& reply_to, Work work, Done done);
  /// True if the job had not started: its work never runs, and `done(kCancelled)` is on its way.
  bool cancel(PoolJobId id);
  /// Waits until every job submitted so far has run or was cancelled. Its `done` may still be on
  /// its way.
  void drain();
  /// Cancels what has not started, waits for what has, and ends the threads. Nothing may be
  /// submitted afterwards.
  void stop();

  /// Threads in existence; for tests and statistics.
  unsigned threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhea
