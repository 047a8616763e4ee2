// BusyPoll: how long a loop with nothing to do looks around before it sleeps.
#pragma once

#include <algorithm>

#include "util/aio_context.h"
#include "util/clock.h"

namespace rhea::internal {

/// Adapts the span of busy-polling to how long the loop had to wait lately: a sleep and the wake-up
/// cost some microseconds, which is worth looking around for only if work tends to come that soon.
///
/// Thread: one. Invariants: 0 <= span() <= params().longest.
class BusyPoll {
 public:
  /// What the first growth leads to: about what a sleep and a wake-up cost.
  static constexpr Nanoseconds kFirstSpan{4000};

  void configure(const BusyPollParams& params) noexcept {
    params_ = params;
    span_ = Nanoseconds::zero();
  }
  const BusyPollParams& params() const noexcept { return params_; }
  bool enabled() const noexcept { return params_.longest > Nanoseconds::zero(); }
  /// How long to look around the next time.
  Nanoseconds span() const noexcept { return span_; }

  /// Work came after the loop had nothing to do for `waited`, asleep or not.
  void work_came_after(Nanoseconds waited) noexcept {
    if (waited <= span_) return;  // caught: the span is right
    if (waited > params_.longest) {
      // No span within the bound would have caught it.
      span_ = params_.shrink == 0 ? Nanoseconds::zero() : span_ / params_.shrink;
    } else {
      span_ = std::min(std::max(span_ * params_.grow, kFirstSpan), params_.longest);
    }
  }

 private:
  BusyPollParams params_;
  Nanoseconds span_{0};
};

}  // namespace rhea::internal
