#include "util/timer.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "util/check.h"
#include "util/mutex.h"

namespace rhea {

/// Shared with the list while it is armed or its callback runs, which may destroy its own Timer.
struct Timer::State {
  enum class Place : uint8_t { kNowhere, kHeap, kDue };

  explicit State(TimerList& l, std::move_only_function<void()> f)
      : list(l), callback(std::move(f)) {}

  TimerList& list;
  std::move_only_function<void()> callback;
  // Under the list's lock from here on.
  Nanoseconds deadline = Nanoseconds::max();
  uint64_t order = 0;  // of arming: equal deadlines run first come, first served
  Place place = Place::kNowhere;
  size_t index = 0;  // in the heap, or among the due ones
};

struct TimerList::Impl {
  using State = Timer::State;
  using Place = State::Place;

  Impl(const Clock& c, std::move_only_function<void()> f) : clock(c), on_earlier(std::move(f)) {}

  static bool earlier(const State& a, const State& b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.order < b.order;
  }

  void put(size_t index, std::shared_ptr<State> state) REQUIRES(mutex) {
    state->index = index;
    heap[index] = std::move(state);
  }

  void sift_up(size_t index) REQUIRES(mutex) {
    std::shared_ptr<State> state = std::move(heap[index]);
    while (index > 0 && earlier(*state, *heap[(index - 1) / 2])) {
      put(index, std::move(heap[(index - 1) / 2]));
      index = (index - 1) / 2;
    }
    put(index, std::move(state));
  }

  void sift_down(size_t index) REQUIRES(mutex) {
    std::shared_ptr<State> state = std::move(heap[index]);
    while (true) {
      size_t child = 2 * index + 1;
      if (child >= heap.size()) break;
      if (child + 1 < heap.size() && earlier(*heap[child + 1], *heap[child])) ++child;
      if (!earlier(*heap[child], *state)) break;
      put(index, std::move(heap[child]));
      index = child;
    }
    put(index, std::move(state));
  }

  void insert(std::shared_ptr<State> state) REQUIRES(mutex) {
    state->place = Place::kHeap;
    heap.push_back(std::move(state));
    sift_up(heap.size() - 1);
  }

  std::shared_ptr<State> remove_from_heap(size_t hole) REQUIRES(mutex) {
    std::shared_ptr<State> removed = std::move(heap[hole]);
    std::shared_ptr<State> last = std::move(heap.back());
    heap.pop_back();
    if (hole < heap.size()) {
      put(hole, std::move(last));
      sift_up(hole);
      sift_down(heap[hole]->index);
    }
    return removed;
  }

  /// Takes the timer out of wherever it is; null if it was not armed.
  std::shared_ptr<State> disarm(State& state) REQUIRES(mutex) {
    std::shared_ptr<State> removed;
    if (state.place == Place::kHeap) removed = remove_from_heap(state.index);
    if (state.place == Place::kDue) removed = std::move(due[state.index]);
    state.place = Place::kNowhere;
    state.deadline = Nanoseconds::max();
    return removed;
  }

  /// What has become due goes behind what a frame below us (a nested poll) has not yet run.
  void collect_due(Nanoseconds now) {
    MutexLock lock(mutex);
    while (!heap.empty() && heap.front()->deadline <= now) {
      std::shared_ptr<State> state = remove_from_heap(0);
      state->place = Place::kDue;
      state->index = due.size();
      due.push_back(std::move(state));
    }
    publish_earliest();
  }

  /// The next due timer, disarmed; null when all have run.
  std::shared_ptr<State> take_due() {
    MutexLock lock(mutex);
    std::shared_ptr<State> state;
    while (state == nullptr && next_due < due.size()) state = std::move(due[next_due++]);
    if (state != nullptr) {
      state->place = Place::kNowhere;
      state->deadline = Nanoseconds::max();
    }
    publish_earliest();
    if (next_due == due.size()) {
      due.clear();
      next_due = 0;
    }
    return state;
  }

  void publish_earliest() REQUIRES(mutex) {
    while (next_due < due.size() && due[next_due] == nullptr) ++next_due;
    Nanoseconds first = heap.empty() ? Nanoseconds::max() : heap.front()->deadline;
    if (next_due < due.size()) first = std::min(first, due[next_due]->deadline);
    // relaxed: a loop that is about to sleep reads it after its gate's fence, and whoever moved it
    // forward goes through that gate afterwards (on_earlier)
    earliest.store(first, std::memory_order_relaxed);
  }

  const Clock& clock;
  std::move_only_function<void()> on_earlier;
  std::atomic<Nanoseconds> earliest{Nanoseconds::max()};  // so that a look needs no lock
  Mutex mutex{LockRank::kLeaf};
  std::vector<std::shared_ptr<State>> heap GUARDED_BY(mutex);  // both keep their capacity
  std::vector<std::shared_ptr<State>> due GUARDED_BY(mutex);   // null: cancelled meanwhile
  size_t next_due GUARDED_BY(mutex) = 0;
  uint64_t next_order GUARDED_BY(mutex) = 0;
};

Timer::Timer(TimerList& list, std::move_only_function<void()> callback)
    : state_(std::make_shared<State>(list, std::move(callback))) {}

Timer::~Timer() { cancel(); }

void Timer::arm_at(Nanoseconds deadline) {
  TimerList::Impl& list = *state_->list.impl_;
  bool moved_forward = false;
  {
    MutexLock lock(list.mutex);
    const Nanoseconds before = list.earliest.load(std::memory_order_relaxed);
    std::shared_ptr<State> state = list.disarm(*state_);
    if (state == nullptr) state = state_;
    state->deadline = deadline;
    state->order = list.next_order++;
    list.insert(std::move(state));
    list.publish_earliest();
    moved_forward = deadline < before;
  }
  if (moved_forward && list.on_earlier) list.on_earlier();
}

void Timer::arm_after(Nanoseconds delay) {
  const Nanoseconds now = state_->list.clock().now();
  arm_at(delay > Nanoseconds::max() - now ? Nanoseconds::max() : now + delay);
}

void Timer::cancel() {
  TimerList::Impl& list = *state_->list.impl_;
  MutexLock lock(list.mutex);
  list.disarm(*state_);  // the last reference is ours, so nothing is destroyed under the lock
  list.publish_earliest();
}

bool Timer::armed() const {
  TimerList::Impl& list = *state_->list.impl_;
  MutexLock lock(list.mutex);
  return state_->place != State::Place::kNowhere;
}

Nanoseconds Timer::deadline() const {
  TimerList::Impl& list = *state_->list.impl_;
  MutexLock lock(list.mutex);
  return state_->deadline;
}

TimerList::TimerList(const Clock& clock, std::move_only_function<void()> on_earlier)
    : impl_(std::make_unique<Impl>(clock, std::move(on_earlier))) {}

TimerList::~TimerList() {
  MutexLock lock(impl_->mutex);
  RHEA_CHECK(impl_->heap.empty() && impl_->due.empty(), "timers are armed on a list that goes");
}

const Clock& TimerList::clock() const noexcept { return impl_->clock; }

Nanoseconds TimerList::next_deadline() const {
  return impl_->earliest.load(std::memory_order_relaxed);  // see publish_earliest()
}

Nanoseconds TimerList::host_time_until_next() const {
  const Nanoseconds deadline = next_deadline();
  return deadline == Nanoseconds::max() ? deadline : impl_->clock.host_time_until(deadline);
}

bool TimerList::run_expired() {
  // Most turns of a loop end here.
  if (next_deadline() == Nanoseconds::max()) return false;
  const Nanoseconds now = impl_->clock.now();
  if (next_deadline() > now) return false;
  // What a callback arms waits for the next call even if it is due, or a period of zero would never
  // give the loop back; and it waits behind what was due before, or it would starve that.
  impl_->collect_due(now);
  bool ran = false;
  while (const std::shared_ptr<Timer::State> state = impl_->take_due()) {
    ran = true;
    state->callback();
  }
  return ran;
}

}  // namespace rhea
