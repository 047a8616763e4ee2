#include "util/clock.h"

#include <ctime>

namespace rhea {

Nanoseconds HostClock::now() const noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return std::chrono::seconds(time.tv_sec) + Nanoseconds(time.tv_nsec);
}

Nanoseconds HostClock::host_time_until(Nanoseconds deadline) const noexcept {
  const Nanoseconds time = now();
  return deadline > time ? deadline - time : Nanoseconds::zero();
}

}  // namespace rhea
