// Clocks: host time, and the guest's time, which stops with the guest.
#pragma once

#include <chrono>

namespace rhea {

using Nanoseconds = std::chrono::nanoseconds;

/// A monotonic clock that a TimerList can follow.
/// Thread: now() may be called by any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Nanoseconds now() const noexcept = 0;
  /// How long to sleep in host time until this clock shows `deadline`: zero if it is past,
  /// Nanoseconds::max() if host time does not bring it nearer (stopped, or stepped by a test).
  virtual Nanoseconds host_time_until(Nanoseconds deadline) const noexcept = 0;
};

/// CLOCK_MONOTONIC of the host.
class HostClock final : public Clock {
 public:
  Nanoseconds now() const noexcept override;
  Nanoseconds host_time_until(Nanoseconds deadline) const noexcept override;
};

}  // namespace rhea
