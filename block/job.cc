#include "block/job.h"

#include <algorithm>
#include <array>

#include "util/check.h"
#include "util/log.h"
#include "util/timer.h"

namespace rhea::block {

std::string_view to_string(JobStatus status) noexcept {
  constexpr std::array<std::string_view, 10> kNames{"created",   "running", "paused",  "ready",
                                                    "standby",   "waiting", "pending", "aborting",
                                                    "concluded", "null"};
  return kNames[static_cast<size_t>(status)];
}

Job::Job(Graph& graph, std::string id, AioContext& context)
    : graph_(graph), id_(std::move(id)), context_(context) {}

Job::~Job() { RHEA_CHECK(!active(), "job '{}' goes while it works", id_); }

void Job::set_status(JobStatus status) {
  status_ = status;
  RHEA_TRACE(kBlock, "job id={} status={}", id_, to_string(status));
  jobs_->observer_.job_status_changed(*this);
}

Result<void> Job::start(Jobs& jobs) {
  jobs_ = &jobs;
  set_status(JobStatus::kCreated);
  active_ = 1;
  auto started = spawn(context_, [this](Co& co) {
    rest(co);
    coroutine_ended(work(co));
  });
  if (!started) {
    active_ = 0;
    return started;
  }
  set_status(JobStatus::kRunning);
  return ok();
}

void Job::set_speed(uint64_t bytes_per_second) {
  speed_.store(bytes_per_second, std::memory_order_relaxed);
  kick();
}

Result<void> Job::user_pause() {
  if (user_paused_) return fail(ErrorKind::kBusy, "Job '{}' is already paused", id_);
  user_paused_ = true;
  pause();
  set_status(status_ == JobStatus::kReady ? JobStatus::kStandby : JobStatus::kPaused);
  return ok();
}

Result<void> Job::user_resume() {
  if (!user_paused_) return fail(ErrorKind::kBusy, "Job '{}' is not paused", id_);
  user_paused_ = false;
  set_status(status_ == JobStatus::kStandby ? JobStatus::kReady : JobStatus::kRunning);
  unpause();
  return ok();
}

void Job::cancel(Cancel how) {
  if (how == Cancel::kSoft && status_ == JobStatus::kReady) {
    soft_cancelled_ = true;
    completing_.store(true, std::memory_order_release);
  } else {
    cancelled_ = true;
    stop_.store(true, std::memory_order_release);
  }
  if (user_paused_) MUST(user_resume());
  kick();
}

Result<void> Job::complete() {
  if (status_ != JobStatus::kReady) {
    return fail(ErrorKind::kBusy, "Job '{}' in state '{}' cannot accept command verb 'complete'",
                id_, to_string(status_));
  }
  completing_.store(true, std::memory_order_release);
  kick();
  return ok();
}

// Both sides are sequentially consistent: of a job that goes on and a main that pauses it, at least
// one sees the other.
void Job::pause() noexcept { pauses_.fetch_add(1); }

void Job::unpause() noexcept {
  if (pauses_.fetch_sub(1) == 1) kick();
}

void Job::drained_begin() noexcept { pause(); }
void Job::drained_end() noexcept { unpause(); }
bool Job::drained_poll() const noexcept { return active(); }

// From here on the job's context, unless said.

/// Suspends until a kick; it may have come already.
void Job::park(Co& co) {
  {
    MutexLock lock(mutex_);
    if (std::exchange(kicked_, false)) return;
    waiting_ = &co.coroutine();
  }
  co.yield();
}

/// Waits out every pause, then is active.
void Job::rest(Co& co) {
  while (pauses_.load() != 0) {
    active_.fetch_sub(1);
    graph_.kick();
    park(co);
    active_.fetch_add(1);
  }
}

bool Job::pause_point(Co& co) {
  rest(co);
  return !should_stop();
}

void Job::wait(Co& co, Nanoseconds limit) {
  Timer timer(context_.timers(), [this] { kick(); });
  if (limit != Nanoseconds::max()) timer.arm_after(limit);
  active_.fetch_sub(1);
  graph_.kick();
  park(co);
  active_.fetch_add(1);
  rest(co);
}

/// Any thread.
void Job::kick() {
  Coroutine* waiting;
  {
    MutexLock lock(mutex_);
    waiting = std::exchange(waiting_, nullptr);
    kicked_ = waiting == nullptr;
  }
  if (waiting != nullptr) waiting->wake();
}

void Job::helper_ended() {
  MainWait& waiter = graph_.loop().waiter();
  kick();
  active_.fetch_sub(1);  // the last touch: the job may be concluded from here
  waiter.kick();
}

void Job::coroutine_ended(Result<void> result) {
  MainLoop& loop = graph_.loop();
  outcome_ = std::move(result);
  ended_.store(true, std::memory_order_release);
  Jobs& jobs = *jobs_;
  active_.fetch_sub(1);  // the last touch
  loop.waiter().kick();
  loop.service().post([&jobs, &loop, self = this] {
    bql.assert_held();
    jobs.job_ended(self, loop.gs());
  });
}

void Job::set_ready() {
  Jobs& jobs = *jobs_;
  graph_.loop().service().post([&jobs, self = this] {
    const auto all = jobs.all();
    if (std::ranges::find(all, self) == all.end()) return;  // it has ended meanwhile
    if (self->status_ != JobStatus::kRunning) return;
    self->set_status(JobStatus::kReady);
    jobs.observer_.job_ready(*self);
  });
}

// Main again.

void Job::conclude(Gs& gs) {
  Result<void> result = *std::move(outcome_);
  if (result.has_value() && !cancelled_) {
    set_status(JobStatus::kWaiting);
    set_status(JobStatus::kPending);
    result = finish(gs, !soft_cancelled_);
  }
  if (!result.has_value() && !cancelled_) error_ = result.error();
  if (error_ || cancelled_) set_status(JobStatus::kAborting);
  clean_up(gs);
  jobs_->observer_.job_ended(*this);
  set_status(JobStatus::kConcluded);
  set_status(JobStatus::kNull);
}

Jobs::~Jobs() { RHEA_CHECK(jobs_.empty(), "jobs go on while their list goes"); }

Result<void> Jobs::add(std::unique_ptr<Job> job) {
  if (find(job->id()) != nullptr) {
    return fail(ErrorKind::kExists, "Job ID '{}' already in use", job->id());
  }
  TRY(job->start(*this));
  jobs_.push_back(std::move(job));
  return ok();
}

Job* Jobs::find(std::string_view id) const noexcept {
  const auto found = std::ranges::find(jobs_, id, [](const auto& job) { return job->id(); });
  return found != jobs_.end() ? found->get() : nullptr;
}

std::vector<Job*> Jobs::all() const {
  std::vector<Job*> jobs;
  for (const auto& job : jobs_) jobs.push_back(job.get());
  return jobs;
}

/// The pointer is only compared: cancel_all() may have been first.
void Jobs::job_ended(Job* job, Gs& gs) {
  const auto at = std::ranges::find(jobs_, job, &std::unique_ptr<Job>::get);
  if (at == jobs_.end()) return;
  (*at)->conclude(gs);
  std::erase_if(jobs_, [job](const auto& j) { return j.get() == job; });
}

void Jobs::cancel_all(Gs& gs, Graph& graph) {
  for (const auto& job : jobs_) job->cancel(Job::Cancel::kForce);
  while (!jobs_.empty()) {
    Job* job = jobs_.back().get();
    graph.loop().waiter().until(gs, [job] { return job->ended(); });
    job_ended(job, gs);
  }
}

}  // namespace rhea::block
