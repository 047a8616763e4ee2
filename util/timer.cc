#include "util/timer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "util/check.h"
#include "util/mutex.h"

namespace rhea {

/// Shared with the list only while the callback runs, so that it may destroy its own Timer.
struct Timer::State {
  static constexpr size_t kNotArmed = ~size_t{0};

  explicit State(std::move_only_function<void()> f) : callback(std::move(f)) {}

  std::move_only_function<void()> callback;
  // Under the list's lock from here on.
  Nanoseconds deadline = Nanoseconds::max();
  uint64_t order = 0;        // of arming: equal deadlines run first come, first served
  size_t index = kNotArmed;  // in the heap
  TimerList* list = nullptr;
};

struct TimerList::Impl {
  Impl(const Clock& c, std::move_only_function<void()> f) : clock(c), on_earlier(std::move(f)) {}

  using State = Timer::State;
  static bool earlier(const State& a, const State& b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.order < b.order;
  }

  void place(size_t index, std::shared_ptr<State> state) REQUIRES(mutex) {
    state->index = index;
    heap[index] = std::move(state);
  }

  void sift_up(size_t index) REQUIRES(mutex) {
    std::shared_ptr<State> state = std::move(heap[index]);
    while (index > 0 && earlier(*state, *heap[(index - 1) / 2])) {
      place(index, std::move(heap[(index - 1) / 2]));
      index = (index - 1) / 2;
    }
    place(index, std::move(state));
  }

  void sift_down(size_t index) REQUIRES(mutex) {
    std::shared_ptr<State> state = std::move(heap[index]);
    while (true) {
      size_t child = 2 * index + 1;
      if (child >= heap.size()) break;
      if (child + 1 < heap.size() && earlier(*heap[child + 1], *heap[child])) ++child;
      if (!earlier(*heap[child], *state)) break;
      place(index, std::move(heap[child]));
      index = child;
    }
    place(index, std::move(state));
  }

  std::shared_ptr<State> remove(State& state) REQUIRES(mutex) {
    if (state.index == State::kNotArmed) return nullptr;
    const size_t hole = state.index;
    std::shared_ptr<State> removed = std::move(heap[hole]);
    removed->index = State::kNotArmed;
    removed->deadline = Nanoseconds::max();
    std::shared_ptr<State> last = std::move(heap.back());
    heap.pop_back();
    if (hole < heap.size()) {
      place(hole, std::move(last));
      sift_up(hole);
      sift_down(heap[hole]->index);
    }
    return removed;
  }

  const Clock& clock;
  std::move_only_function<void()> on_earlier;
  mutable Mutex mutex{LockRank::kLeaf};
  std::vector<std::shared_ptr<State>> heap GUARDED_BY(mutex);  // keeps its capacity
  uint64_t next_order GUARDED_BY(mutex) = 0;
};

Timer::Timer(TimerList& list, std::move_only_function<void()> callback)
    : state_(std::make_shared<State>(std::move(callback))) {
  state_->list = &list;
}

Timer::~Timer() { cancel(); }

void Timer::arm_at(Nanoseconds deadline) {
  TimerList::Impl& list = *state_->list->impl_;
  bool is_first = false;
  {
    MutexLock lock(list.mutex);
    std::shared_ptr<State> state = list.remove(*state_);
    if (state == nullptr) state = state_;
    state->deadline = deadline;
    state->order = list.next_order++;
    list.heap.emplace_back();
    list.place(list.heap.size() - 1, std::move(state));
    list.sift_up(list.heap.size() - 1);
    is_first = state_->index == 0;
  }
  if (is_first && list.on_earlier) list.on_earlier();
}

void Timer::arm_after(Nanoseconds delay) { arm_at(state_->list->clock().now() + delay); }

void Timer::cancel() {
  TimerList::Impl& list = *state_->list->impl_;
  MutexLock lock(list.mutex);
  list.remove(*state_);  // the last reference is ours, so nothing is destroyed under the lock
}

bool Timer::armed() const {
  TimerList::Impl& list = *state_->list->impl_;
  MutexLock lock(list.mutex);
  return state_->index != State::kNotArmed;
}

Nanoseconds Timer::deadline() const {
  TimerList::Impl& list = *state_->list->impl_;
  MutexLock lock(list.mutex);
  return state_->deadline;
}

TimerList::TimerList(const Clock& clock, std::move_only_function<void()> on_earlier)
    : impl_(std::make_unique<Impl>(clock, std::move(on_earlier))) {}

TimerList::~TimerList() {
  MutexLock lock(impl_->mutex);
  RHEA_CHECK(impl_->heap.empty(), "{} timers are armed on a list that goes", impl_->heap.size());
}

const Clock& TimerList::clock() const noexcept { return impl_->clock; }

Nanoseconds TimerList::next_deadline() const {
  MutexLock lock(impl_->mutex);
  return impl_->heap.empty() ? Nanoseconds::max() : impl_->heap.front()->deadline;
}

Nanoseconds TimerList::host_time_until_next() const {
  const Nanoseconds deadline = next_deadline();
  return deadline == Nanoseconds::max() ? deadline : impl_->clock.host_time_until(deadline);
}

bool TimerList::run_expired() {
  const Nanoseconds now = impl_->clock.now();
  uint64_t end = 0;
  bool ran = false;
  while (true) {
    std::shared_ptr<Timer::State> state;
    {
      MutexLock lock(impl_->mutex);
      // What a callback arms waits for the next call, even if it is due: or a period of zero would
      // never give the loop back.
      if (!ran) end = impl_->next_order;
      if (impl_->heap.empty()) return ran;
      Timer::State& first = *impl_->heap.front();
      if (first.deadline > now || first.order >= end) return ran;
      state = impl_->remove(first);
    }
    ran = true;
    state->callback();
  }
}

}  // namespace rhea
