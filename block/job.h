// Job: work on block nodes that goes on beside the guest's I/O.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/backend.h"
#include "block/graph.h"
#include "util/coroutine.h"
#include "util/error.h"
#include "util/mutex.h"

namespace rhea::block {

/// Where a job stands, in the words of QMP. Statuses only go forward, but for pauses.
enum class JobStatus : uint8_t {
  kCreated,
  kRunning,
  kPaused,   ///< by the user, while it ran
  kReady,    ///< can be completed
  kStandby,  ///< by the user, while it was ready
  kWaiting,
  kPending,
  kAborting,
  kConcluded,
  kNull,
};
std::string_view to_string(JobStatus status) noexcept;

class Job;
class Jobs;

/// Who is told about jobs. Thread: main, service context.
class JobObserver {
 public:
  virtual ~JobObserver() = default;
  virtual void job_status_changed(const Job& job) = 0;
  virtual void job_ready(const Job& job) = 0;
  /// It has ended: well, by a cancellation, or with job.error().
  virtual void job_ended(const Job& job) = 0;
};

/// A job with one coroutine of its own and as many helpers as it starts.
///
/// Its backends do not hold requests back in a drain: instead the job pauses between its steps, and
/// a drain waits until it has (G9, G17). What changes the graph is done at its end, on main, in the
/// service context, when the coroutine has returned (G16).
///
/// Thread: main, unless said. Owns: nothing here. Invariants: destroyed once concluded.
class Job : protected BackendUser {
 public:
  ~Job() override;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const std::string& id() const noexcept { return id_; }
  virtual std::string_view type() const noexcept = 0;
  JobStatus status() const noexcept { return status_; }
  /// Why it failed; for the id's of cancelled jobs see cancelled().
  const std::optional<Error>& error() const noexcept { return error_; }
  bool cancelled() const noexcept { return cancelled_; }
  /// Units: bytes. `length` may still grow.
  uint64_t offset() const noexcept { return offset_.load(std::memory_order_relaxed); }
  uint64_t length() const noexcept { return length_.load(std::memory_order_relaxed); }
  /// Units: bytes a second; 0 is no limit.
  uint64_t speed() const noexcept { return speed_.load(std::memory_order_relaxed); }
  void set_speed(uint64_t bytes_per_second);

  Result<void> user_pause();
  Result<void> user_resume();
  bool user_paused() const noexcept { return user_paused_; }
  /// Whether any of its coroutines does something just now.
  bool busy() const noexcept { return active(); }
  /// Asks it to end. A ready job that is not forced ends well, without its last step.
  enum class Cancel : uint8_t { kSoft, kForce };
  void cancel(Cancel how);
  /// Asks a ready job for its last step. Errors: it is not ready.
  Result<void> complete();

 protected:
  Job(Graph& graph, std::string id, AioContext& context);

  // For the derived class, on main.
  /// The work up to the point where the graph has to change. On the job's context.
  virtual Result<void> work(Co& co) = 0;
  /// The last step, on main, at the top; `pivot` if the job is to have its effect. Errors: it had
  /// none.
  virtual Result<void> finish(Gs& gs, bool pivot) = 0;
  /// Undoes what start() has set up. Must not fail.
  virtual void clean_up(Gs& gs) = 0;

  // For its coroutines, on the job's context.
  /// Where the job may be paused for as long as a drain or the user wants. False: it is to stop.
  bool pause_point(Co& co);
  /// Suspends until kick(), or for `limit` at most; the job counts as paused meanwhile.
  void wait(Co& co, Nanoseconds limit = Nanoseconds::max());
  /// Starts `body(Co&)` beside the job's own coroutine, which may be paused only when it has ended.
  template <class F>
  Result<void> start_helper(F&& body) {
    active_.fetch_add(1, std::memory_order_relaxed);
    auto started = spawn(context_, [this, run = std::forward<F>(body)](Co& co) mutable {
      run(co);
      helper_ended();
    });
    if (!started) active_.fetch_sub(1, std::memory_order_relaxed);
    return started;
  }
  void set_ready();
  bool should_stop() const noexcept { return stop_.load(std::memory_order_acquire); }
  bool completing() const noexcept { return completing_.load(std::memory_order_acquire); }

  /// Any thread: makes wait() return.
  void kick();
  void set_length(uint64_t bytes) noexcept { length_.store(bytes, std::memory_order_relaxed); }
  void add_length(uint64_t bytes) noexcept { length_.fetch_add(bytes, std::memory_order_relaxed); }
  void add_offset(uint64_t bytes) noexcept { offset_.fetch_add(bytes, std::memory_order_relaxed); }

  Graph& graph() noexcept { return graph_; }
  AioContext& context() noexcept { return context_; }

 private:
  friend class Jobs;
  Result<void> start(Jobs& jobs);
  void set_status(JobStatus status);
  void helper_ended();
  void coroutine_ended(Result<void> result);
  bool ended() const noexcept { return ended_.load(std::memory_order_acquire) && !active(); }
  bool active() const noexcept { return active_.load(std::memory_order_seq_cst) != 0; }
  void conclude(Gs& gs);
  void pause() noexcept;
  void unpause() noexcept;
  void rest(Co& co);
  void park(Co& co);

  // BackendUser: for each of its backends.
  void drained_begin() noexcept override;
  void drained_end() noexcept override;
  bool drained_poll() const noexcept override;

  Graph& graph_;
  const std::string id_;
  AioContext& context_;
  Jobs* jobs_ = nullptr;
  JobStatus status_ = JobStatus::kCreated;
  std::optional<Error> error_;
  bool cancelled_ = false;
  bool soft_cancelled_ = false;
  bool user_paused_ = false;
  std::atomic<uint64_t> offset_{0}, length_{0}, speed_{0};

  std::atomic<bool> stop_{false}, completing_{false};
  std::atomic<unsigned> pauses_{0};  // main changes it
  std::atomic<unsigned> active_{0};  // coroutines that run, or wait for a request of theirs
  Mutex mutex_{LockRank::kLeaf};
  Coroutine* waiting_ GUARDED_BY(mutex_) = nullptr;
  bool kicked_ GUARDED_BY(mutex_) = false;
  std::optional<Result<void>> outcome_;  // of the coroutine, until it has ended
  std::atomic<bool> ended_{false};
};

/// The jobs there are.
/// Thread: main. Owns: them.
class Jobs {
 public:
  /// `observer` outlives it.
  explicit Jobs(JobObserver& observer) : observer_(observer) {}
  /// All have ended: see cancel_all().
  ~Jobs();

  /// Starts a job; it goes by itself when it has concluded. Errors: kExists, the id is taken.
  Result<void> add(std::unique_ptr<Job> job);
  Job* find(std::string_view id) const noexcept;
  std::vector<Job*> all() const;
  /// Forces every job to end and waits for it, polling. At the top.
  void cancel_all(Gs& gs, Graph& graph);

 private:
  friend class Job;
  void job_ended(Job* job, Gs& gs);
  JobObserver& observer_;
  std::vector<std::unique_ptr<Job>> jobs_;
};

}  // namespace rhea::block
