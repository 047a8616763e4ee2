#include "vmm/vm_clock.h"

#include <algorithm>
#include <limits>

#include "util/check.h"
#include "util/timer.h"

namespace rhea::vmm {

// relaxed: the word carries all that a reader needs, and orders nothing else.
Nanoseconds VmClock::now() const noexcept {
  const int64_t state = state_.load(std::memory_order_relaxed);
  return (state & kRunning) != 0 ? host_.now() + unpack(state) : unpack(state);
}

Nanoseconds VmClock::host_time_until(Nanoseconds deadline) const noexcept {
  const Nanoseconds time = now();
  if (deadline <= time) return Nanoseconds(0);
  const bool running = (state_.load(std::memory_order_relaxed) & kRunning) != 0;
  if (!running || deadline == Nanoseconds::max()) return Nanoseconds::max();
  return deadline - time;
}

void VmClock::start() {
  const int64_t state = state_.load(std::memory_order_relaxed);
  if (mode_ == Mode::kStepped || (state & kRunning) != 0) return;
  state_.store(pack(unpack(state) - host_.now(), kRunning), std::memory_order_relaxed);
}

void VmClock::stop() {
  if ((state_.load(std::memory_order_relaxed) & kRunning) == 0) return;
  state_.store(pack(now(), 0), std::memory_order_relaxed);
}

/// Half of what the word can hold, so that deadlines have room: 73 years.
Result<void> VmClock::check(const VmClockState& state) const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
  if (state.nanoseconds < 0 || state.nanoseconds > kMost) {
    return fail(ErrorKind::kCorrupt, "nanoseconds {} is not possible", state.nanoseconds);
  }
  if (Nanoseconds(state.nanoseconds) < now()) {
    return fail(ErrorKind::kCorrupt, "the clock would go back from {} to {} ns", now().count(),
                state.nanoseconds);
  }
  return ok();
}

void VmClock::load(const VmClockState& state) {
  RHEA_CHECK((state_.load(std::memory_order_relaxed) & kRunning) == 0, "the clock runs");
  RHEA_CHECK(Nanoseconds(state.nanoseconds) >= now(), "the clock goes back");
  state_.store(pack(Nanoseconds(state.nanoseconds), 0), std::memory_order_relaxed);
}

void VmClock::step_to(Nanoseconds target, TimerList& timers) {
  RHEA_CHECK(mode_ == Mode::kStepped);
  while (now() < target) {
    const Nanoseconds next = std::clamp(timers.next_deadline(), now(), target);
    state_.store(pack(next, 0), std::memory_order_relaxed);
    timers.run_expired();
  }
}

}  // namespace rhea::vmm
