#include "vmm/kvm/vcpu_throttle.h"

#include <signal.h>

#include <cerrno>
#include <utility>

#include "util/check.h"

namespace rhea::vmm {
namespace {

timespec to_timespec(Nanoseconds t) {
  const auto whole = std::chrono::duration_cast<std::chrono::seconds>(t);
  return {.tv_sec = whole.count(), .tv_nsec = (t - whole).count()};
}

}  // namespace

VcpuThrottle::~VcpuThrottle() {
  if (timer_) ::timer_delete(*timer_);
}

Result<void> VcpuThrottle::set(unsigned percent, const Receiver& receiver) {
  RHEA_CHECK(percent <= kMaxPercent, "a vCPU is throttled by {} %", percent);
  if (percent != 0 && !timer_) {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = receiver.signal;
    event.sigev_value.sival_ptr = receiver.value;
    event._sigev_un._tid = receiver.thread_id;  // sigev_notify_thread_id of timer_create(2)
    timer_t timer{};
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer) < 0)
      return fail_errno(errno, "timer_create");
    timer_ = timer;
  }
  const unsigned before = std::exchange(percent_, percent);
  if (before == 0) slice_ends_ = Nanoseconds(0);
  if (before != 0 && percent == 0) arm(Nanoseconds(0));
  return ok();
}

Nanoseconds VcpuThrottle::rest() {
  if (percent_ == 0) {
    rest_began_.reset();
    return Nanoseconds(0);
  }
  const Nanoseconds now = host_.now();
  if (!rest_began_) {
    if (now < slice_ends_) return Nanoseconds(0);
    arm(Nanoseconds(0));
    rest_began_ = now;
  }
  const Nanoseconds left = host_.host_time_until(*rest_began_ + rest_of_turn(percent_));
  if (left > Nanoseconds(0)) return left;
  rest_began_.reset();
  slice_ends_ = host_.now() + kSlice;
  arm(host_.host_time_until(slice_ends_));
  return Nanoseconds(0);
}

/// The signal comes after `delay`, and again after each slice until it is heard: TSan runs a
/// handler late, perhaps not before the vCPU has gone into the guest. Zero: it does not come.
void VcpuThrottle::arm(Nanoseconds delay) {
  itimerspec times{};
  if (delay > Nanoseconds(0) && delay != Nanoseconds::max()) {
    times.it_value = to_timespec(delay);
    times.it_interval = to_timespec(kSlice);
  }
  RHEA_CHECK(::timer_settime(*timer_, 0, &times, nullptr) == 0, "timer_settime: errno {}", errno);
}

}  // namespace rhea::vmm
