// ManualClock: a clock that moves only when a test says so.
#pragma once

#include <atomic>

#include "util/clock.h"

namespace rhea::test {

/// Thread: any.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Nanoseconds start = Nanoseconds(0)) : now_(start) {}

  Nanoseconds now() const noexcept override { return now_.load(); }
  /// Host time never brings a deadline nearer.
  Nanoseconds host_time_until(Nanoseconds deadline) const noexcept override {
    return deadline <= now() ? Nanoseconds(0) : Nanoseconds::max();
  }
  void set(Nanoseconds time) { now_ = time; }
  void advance(Nanoseconds by) { now_ = now_.load() + by; }

 private:
  std::atomic<Nanoseconds> now_;
};

}  // namespace rhea::test
