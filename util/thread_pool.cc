#include "util/thread_pool.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "util/check.h"
#include "util/mutex.h"
#include "util/rcu.h"
#include "util/sync_point.h"
#include "util/thread.h"

namespace rhea {
namespace {

/// A submission, and then its own reply: so a reply needs no memory and can not fail.
struct Job final : Resumable {
  Job(uint64_t i, Executor& e, ThreadPool::Work w, ThreadPool::Done d)
      : id(i), reply_to(e), work(std::move(w)), done(std::move(d)) {}

  void resume() override {
    const std::unique_ptr<Job> self(this);
    done(outcome);
  }

  const uint64_t id;
  Executor& reply_to;
  ThreadPool::Work work;
  ThreadPool::Done done;
  PoolOutcome outcome = PoolOutcome::kCancelled;
};

/// Hands the job to its executor, which owns it until it has called resume().
void reply(std::unique_ptr<Job> job) {
  job->work = nullptr;  // what it captured ends before the caller hears of it
  Executor& executor = job->reply_to;
  executor.resume_later(*job.release());
}

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(const Limits& l) : limits(l) {}

  void assert_may_wait() const {
    RHEA_CHECK(!rcu.in_read_section(), "waiting for pool workers inside an RCU read section");
  }

  Result<void> start_worker() REQUIRES(mutex) {
    const uint64_t number = next_worker++;
    workers.push_back({number, TRY(Thread::start("worker", [this, number] { serve(number); }))});
    return ok();
  }

  /// A worker's life.
  void serve(uint64_t number) {
    std::optional<uint64_t> finished;
    while (std::unique_ptr<Job> job = next_job(number, finished)) {
      finished = job->id;
      job->work();
      job->outcome = PoolOutcome::kRan;
      reply(std::move(job));
    }
  }

  /// Waits for a job. Null when this worker is to end; it is no longer among `workers` then.
  std::unique_ptr<Job> next_job(uint64_t number, std::optional<uint64_t> finished) {
    MutexLock lock(mutex);
    // Idle in the same step, or who waited for the job and submits the next would start a thread.
    if (finished.has_value()) note_finished(*finished);
    ++idle;
    bool in_time = true;
    while (queue.empty() && !stopping && in_time) {
      in_time = work_or_stop.wait_for(mutex, limits.idle_time);
    }
    --idle;
    if (queue.empty()) {
      retire(number);
      return nullptr;
    }
    std::unique_ptr<Job> job = std::move(queue.front());
    queue.pop_front();
    running.push_back(job->id);
    return job;
  }

  void note_finished(uint64_t id) REQUIRES(mutex) {
    running.erase(std::ranges::find(running, id));
    changed.notify_all();
  }

  void retire(uint64_t number) REQUIRES(mutex) {
    const auto self = std::ranges::find(workers, number, &Worker::number);
    ended.push_back(std::move(self->thread));  // a thread can not join itself
    workers.erase(self);
    changed.notify_all();
  }

  /// Whether a job older than `limit` has not been dealt with.
  bool busy_below(uint64_t limit) const REQUIRES(mutex) {
    const auto older = [limit](uint64_t id) { return id < limit; };
    return (!queue.empty() && queue.front()->id < limit) || std::ranges::any_of(running, older);
  }

  std::deque<std::unique_ptr<Job>> take_queue() {
    MutexLock lock(mutex);
    stopping = true;
    work_or_stop.notify_all();
    return std::exchange(queue, {});
  }

  std::vector<Thread> take_ended() {
    MutexLock lock(mutex);
    return std::exchange(ended, {});
  }

  struct Worker {
    uint64_t number;
    Thread thread;
  };

  const Limits limits;
  mutable Mutex mutex{LockRank::kLeaf};
  CondVar work_or_stop;                                      // to workers
  CondVar changed;                                           // to those who wait for workers
  std::deque<std::unique_ptr<Job>> queue GUARDED_BY(mutex);  // oldest first
  std::vector<uint64_t> running GUARDED_BY(mutex);           // ids of jobs on a worker
  std::vector<Worker> workers GUARDED_BY(mutex);
  std::vector<Thread> ended GUARDED_BY(mutex);  // or about to; to be joined
  unsigned idle GUARDED_BY(mutex) = 0;
  bool stopping GUARDED_BY(mutex) = false;
  uint64_t next_id GUARDED_BY(mutex) = 0;
  uint64_t next_worker GUARDED_BY(mutex) = 0;
};

ThreadPool::ThreadPool(const Limits& limits) : impl_(std::make_unique<Impl>(limits)) {
  RHEA_CHECK(limits.most_threads > 0, "a pool of no threads");
}

ThreadPool::~ThreadPool() { stop(); }

Result<PoolJobId> ThreadPool::submit(Executor& reply_to, Work work, Done done) {
  const std::vector<Thread> join_after_unlock = impl_->take_ended();
  MutexLock lock(impl_->mutex);
  RHEA_CHECK(!impl_->stopping, "a job for a pool that was stopped");
  // An idle worker that was woken counts as idle until it has the lock.
  const bool wants_thread = impl_->queue.size() >= impl_->idle;
  if (wants_thread && impl_->workers.size() < impl_->limits.most_threads) {
    auto started = impl_->start_worker();
    // With a worker alive the job only waits longer.
    if (!started.has_value() && impl_->workers.empty()) return std::move(started).error();
  }
  const uint64_t id = impl_->next_id++;
  impl_->queue.push_back(std::make_unique<Job>(id, reply_to, std::move(work), std::move(done)));
  impl_->work_or_stop.notify_one();
  return PoolJobId(id);
}

bool ThreadPool::cancel(PoolJobId id) {
  std::unique_ptr<Job> job;
  {
    MutexLock lock(impl_->mutex);
    const auto found = std::ranges::find(impl_->queue, static_cast<uint64_t>(id),
                                         [](const auto& queued) { return queued->id; });
    if (found == impl_->queue.end()) return false;
    job = std::move(*found);
    impl_->queue.erase(found);
    impl_->changed.notify_all();
  }
  reply(std::move(job));
  return true;
}

void ThreadPool::drain() {
  impl_->assert_may_wait();
  MutexLock lock(impl_->mutex);
  const uint64_t limit = impl_->next_id;
  RHEA_SYNC_POINT("ThreadPool::drain: counted, not yet waiting");
  while (impl_->busy_below(limit)) impl_->changed.wait(impl_->mutex);
}

void ThreadPool::stop() {
  impl_->assert_may_wait();
  for (std::unique_ptr<Job>& job : impl_->take_queue()) reply(std::move(job));
  {
    MutexLock lock(impl_->mutex);
    while (!impl_->workers.empty()) impl_->changed.wait(impl_->mutex);
  }
  impl_->take_ended();  // joined here, when the last may still be on its way out
}

unsigned ThreadPool::threads() const {
  MutexLock lock(impl_->mutex);
  return static_cast<unsigned>(impl_->workers.size());
}

}  // namespace rhea
