// Stand-in for util/timer.cc until it lands.
#include "util/timer.h"

#include <vector>

namespace rhea {
namespace {
struct Node {
  std::move_only_function<void()> callback;
  Nanoseconds deadline = Nanoseconds::max();
};
}  // namespace
struct TimerList::Impl {
  const Clock& clock;
  std::vector<std::shared_ptr<void>> nodes;
};
struct Timer::State : Node {
  TimerList* list = nullptr;
};
TimerList::TimerList(const Clock& clock, std::move_only_function<void()>)
    : impl_(new Impl{clock, {}}) {}
TimerList::~TimerList() = default;
const Clock& TimerList::clock() const noexcept { return impl_->clock; }
Nanoseconds TimerList::next_deadline() const {
  Nanoseconds next = Nanoseconds::max();
  for (auto& n : impl_->nodes) next = std::min(next, static_cast<Node*>(n.get())->deadline);
  return next;
}
Nanoseconds TimerList::host_time_until_next() const {
  return impl_->clock.host_time_until(next_deadline());
}
bool TimerList::run_expired() {
  bool any = false;
  for (;;) {
    const Nanoseconds next = next_deadline();
    if (next > impl_->clock.now()) return any;
    const auto nodes = impl_->nodes;
    for (auto& n : nodes) {
      auto* node = static_cast<Node*>(n.get());
      if (node->deadline == next) {
        node->deadline = Nanoseconds::max();
        node->callback();
        any = true;
        break;
      }
    }
  }
}
Timer::Timer(TimerList& list, std::move_only_function<void()> callback) : state_(new State) {
  state_->callback = std::move(callback);
  state_->list = &list;
  list.impl_->nodes.push_back(std::shared_ptr<void>(state_, static_cast<Node*>(state_.get())));
}
Timer::~Timer() {
  std::erase_if(state_->list->impl_->nodes,
                [&](auto& n) { return n.get() == static_cast<Node*>(state_.get()); });
}
void Timer::arm_at(Nanoseconds deadline) { state_->deadline = deadline; }
void Timer::arm_after(Nanoseconds delay) {
  state_->deadline = state_->list->impl_->clock.now() + delay;
}
void Timer::cancel() { state_->deadline = Nanoseconds::max(); }
bool Timer::armed() const { return state_->deadline != Nanoseconds::max(); }
Nanoseconds Timer::deadline() const { return state_->deadline; }
}  // namespace rhea
