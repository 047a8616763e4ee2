// DeviceTimer: a timer that a device gives back when it is unrealized.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "util/bql.h"
#include "util/timer.h"

namespace rhea::devices::internal {

/// A Timer of the machine's clock with the life of a realized device. A device's memory goes later
/// and on another thread than it is unrealized, when the timer list may not be touched any more.
/// Thread: BQL; a released one may be destroyed anywhere.
class DeviceTimer {
 public:
  DeviceTimer(TimerList& list, std::move_only_function<void()> callback)
      : timer_(std::in_place, list, std::move(callback)) {}

  /// From here on nothing arms it any more.
  void release() REQUIRES(bql) { timer_.reset(); }

  void arm_at(Nanoseconds deadline) REQUIRES(bql) {
    if (timer_) timer_->arm_at(deadline);
  }
  void arm_after(Nanoseconds delay) REQUIRES(bql) {
    if (timer_) timer_->arm_after(delay);
  }
  /// The absolute deadline; Nanoseconds::max() when not armed.
  Nanoseconds deadline() const REQUIRES(bql) {
    return timer_ ? timer_->deadline() : Nanoseconds::max();
  }
  void cancel() REQUIRES(bql) {
    if (timer_) timer_->cancel();
  }

 private:
  std::optional<Timer> timer_;
};

}  // namespace rhea::devices::internal
