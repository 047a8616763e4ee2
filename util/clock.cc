#include "util/clock.h"

#include <ctime>

namespace rhea {

Nanoseconds HostClock::now() const noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return std::chrono::seconds(time.tv_sec) + Nanoseconds(time.tv_nsec);
}

Nanoseconds HostClock::host_time_until(Nanoseconds deadline) const noexcept {
  const Nanoseconds left = deadline - now();
  return left > Nanoseconds::zero() ? left : Nanoseconds::zero();
}

}  // namespace rhea
