#include "block/throttle_group.h"

#include <algorithm>
#include <optional>

#include "block/block_context.h"
#include "util/check.h"
#include "util/timer.h"

namespace rhea::block {
namespace {

constexpr Nanoseconds kUntilWoken = Nanoseconds::max();

size_t index_of(ThrottleDirection direction) { return static_cast<size_t>(direction); }

Nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

}  // namespace

/// A request that waits; on its coroutine's stack. All but the first line under the group's lock.
struct ThrottleMember::Waiter {
  ThrottleMember& member;
  const ThrottleDirection direction;
  const uint64_t bytes;
  Coroutine& coroutine;
  Waiter* next = nullptr;  // in its queue; then among those to wake
  bool asleep = false;     // whoever changes it to false, under the lock, wakes the coroutine
  bool released = false;   // counted, and in no queue
};

ThrottleMember::ThrottleMember(ThrottleGroup& group, bool suspended)
    : group_(group), suspended_(suspended) {
  MutexLock lock(group_.mutex_);
  group_.members_.push_back(this);
}

ThrottleMember::~ThrottleMember() {
  MutexLock lock(group_.mutex_);
  for (const Queue& queue : queues_) {
    RHEA_CHECK(queue.first == nullptr, "a node leaves group '{}' with requests waiting",
               group_.id_);
  }
  std::erase(group_.members_, this);
}

void ThrottleMember::co_admit(Co& co, ThrottleDirection direction, uint64_t bytes) {
  // relaxed: without limits there is nothing to count either
  if (group_.unlimited_.load(std::memory_order_relaxed)) return;
  Waiter waiter{*this, direction, bytes, co.coroutine()};
  if (group_.enter(waiter)) return;
  for (;;) {
    const Nanoseconds sleep = group_.sleep_time(waiter);
    if (sleep == Nanoseconds(0)) return;
    std::optional<Timer> timer;
    if (sleep != kUntilWoken) {
      timer.emplace(BlockContext::of(co).aio().timers(), [&] { group_.timer_expired(waiter); });
      timer->arm_after(sleep);
    }
    co.yield();
  }
}

void ThrottleMember::suspend() noexcept { group_.release_all(*this); }

void ThrottleMember::resume() noexcept {
  MutexLock lock(group_.mutex_);
  suspended_ = false;
}

ThrottleGroup::ThrottleGroup(std::string id, const ThrottleLimits& limits)
    : id_(std::move(id)), unlimited_(limits.unlimited()) {
  buckets_.set_limits(limits);
}

ThrottleGroup::~ThrottleGroup() {
  MutexLock lock(mutex_);
  RHEA_CHECK(members_.empty(), "throttle group '{}' goes while nodes use it", id_);
}

ThrottleLimits ThrottleGroup::limits() const {
  MutexLock lock(mutex_);
  return buckets_.limits();
}

bool ThrottleGroup::in_use(Gs&) const {
  MutexLock lock(mutex_);
  return !members_.empty();
}

void ThrottleGroup::set_limits(Gs&, const ThrottleLimits& limits) {
  std::array<Waiter*, 2> woken{};
  {
    MutexLock lock(mutex_);
    buckets_.set_limits(limits);
    unlimited_.store(limits.unlimited(), std::memory_order_relaxed);
    for (size_t i = 0; i < woken.size(); ++i) {
      if (elected_[i] != nullptr && rouse(*elected_[i])) woken[i] = elected_[i];
    }
  }
  for (Waiter* waiter : woken) wake(waiter);
}

/// Whether the request may go at once; else it is queued.
bool ThrottleGroup::enter(Waiter& waiter) {
  const size_t i = index_of(waiter.direction);
  MutexLock lock(mutex_);
  if (waiter.member.suspended_ ||
      (elected_[i] == nullptr && buckets_.wait(waiter.direction, now()) == Nanoseconds(0))) {
    buckets_.pour(waiter.direction, waiter.bytes);
    return true;
  }
  put(waiter);
  if (elected_[i] == nullptr) elect(waiter.direction);
  return false;
}

/// 0: the request goes, is in no queue any more, and the next has been told. Else it must sleep,
/// and may be woken early.
Nanoseconds ThrottleGroup::sleep_time(Waiter& waiter) {
  Waiter* next;
  {
    MutexLock lock(mutex_);
    if (waiter.released) return Nanoseconds(0);
    const bool elected = elected_[index_of(waiter.direction)] == &waiter;
    const Nanoseconds wait = elected ? buckets_.wait(waiter.direction, now()) : kUntilWoken;
    if (wait != Nanoseconds(0)) {
      waiter.asleep = true;
      return wait;
    }
    take_first(waiter);
    buckets_.pour(waiter.direction, waiter.bytes);
    next = elect(waiter.direction);
    if (next != nullptr && !rouse(*next)) next = nullptr;
  }
  wake(next);
  return Nanoseconds(0);
}

void ThrottleGroup::timer_expired(Waiter& waiter) {
  bool asleep;
  {
    MutexLock lock(mutex_);
    asleep = rouse(waiter);
  }
  if (asleep) wake(&waiter);
}

void ThrottleGroup::put(Waiter& waiter) {
  ThrottleMember::Queue& queue = waiter.member.queues_[index_of(waiter.direction)];
  (queue.first != nullptr ? queue.last->next : queue.first) = &waiter;
  queue.last = &waiter;
}

/// Only who was elected leaves by itself, and that is the first of its queue.
void ThrottleGroup::take_first(Waiter& waiter) {
  ThrottleMember::Queue& queue = waiter.member.queues_[index_of(waiter.direction)];
  RHEA_CHECK(queue.first == &waiter);
  queue.first = waiter.next;
}

/// The first request of the member after the one that had its turn; null if nobody waits.
ThrottleGroup::Waiter* ThrottleGroup::elect(ThrottleDirection direction) {
  const size_t i = index_of(direction);
  for (size_t step = 1; step <= members_.size(); ++step) {
    const size_t at = (turn_[i] + step) % members_.size();
    if (Waiter* first = members_[at]->queues_[i].first) {
      turn_[i] = at;
      return elected_[i] = first;
    }
  }
  return elected_[i] = nullptr;
}

/// Under the lock: whether the caller has to wake it.
bool ThrottleGroup::rouse(Waiter& waiter) { return std::exchange(waiter.asleep, false); }

/// Without the lock; it may be gone afterwards.
void ThrottleGroup::wake(Waiter* waiter) {
  if (waiter != nullptr) waiter->coroutine.wake();
}

void ThrottleGroup::release_all(ThrottleMember& member) {
  std::vector<Waiter*> woken;
  {
    MutexLock lock(mutex_);
    member.suspended_ = true;
    for (const auto direction : {ThrottleDirection::kRead, ThrottleDirection::kWrite}) {
      const size_t i = index_of(direction);
      for (Waiter* waiter = std::exchange(member.queues_[i].first, nullptr); waiter != nullptr;
           waiter = waiter->next) {
        buckets_.pour(direction, waiter->bytes);
        waiter->released = true;
        if (rouse(*waiter)) woken.push_back(waiter);
      }
      if (elected_[i] == nullptr || &elected_[i]->member != &member) continue;
      if (Waiter* next = elect(direction); next != nullptr && rouse(*next)) woken.push_back(next);
    }
  }
  for (Waiter* waiter : woken) wake(waiter);
}

Result<ThrottleGroup*> ThrottleGroups::add(Gs&, std::string id, const ThrottleLimits& limits) {
  if (groups_.contains(id)) {
    return fail(ErrorKind::kExists, "attempt to add duplicate property '{}' to object", id);
  }
  auto group = std::make_unique<ThrottleGroup>(id, limits);
  return groups_.emplace(std::move(id), std::move(group)).first->second.get();
}

Result<void> ThrottleGroups::remove(Gs& gs, std::string_view id) {
  const auto at = groups_.find(id);
  if (at == groups_.end()) return fail(ErrorKind::kNotFound, "object '{}' not found", id);
  if (at->second->in_use(gs)) {
    return fail(ErrorKind::kBusy, "object '{}' is in use, can not be deleted", id);
  }
  groups_.erase(at);
  return ok();
}

ThrottleGroup* ThrottleGroups::find(Gs&, std::string_view id) const noexcept {
  const auto at = groups_.find(id);
  return at != groups_.end() ? at->second.get() : nullptr;
}

}  // namespace rhea::block
