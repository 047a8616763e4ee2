// Convergence: whether the passes over RAM come to an end, and how much the guest is slowed for it.
#pragma once

#include <cstdint>
#include <string>

#include "util/clock.h"

namespace rhea::migration {

/// One whole pass while the guest ran.
/// Units: pages of memory::kDirtyPageBytes.
struct Pass {
  uint64_t dirty_before = 0;  ///< what it set out to send
  uint64_t dirty_after = 0;   ///< what was written behind it
  uint64_t sent_pages = 0;    ///< zero pages too
  uint64_t sent_bytes = 0;
  Nanoseconds took{0};
};

/// With QEMU's names, meaning and figures, per cent each.
struct ThrottleParameters {
  unsigned trigger_threshold = 50;  ///< throttle-trigger-threshold
  unsigned initial = 20;            ///< cpu-throttle-initial
  unsigned increment = 10;          ///< cpu-throttle-increment
  unsigned max = 99;                ///< max-cpu-throttle
};

enum class AutoConverge : uint8_t { kNo, kYes };

/// What the user allows; asked for again at each pass.
struct ConvergenceLimits {
  Nanoseconds downtime{0};
  AutoConverge auto_converge = AutoConverge::kNo;
  ThrottleParameters throttle;
};

/// What follows from a pass.
struct Verdict {
  bool enough = false;  ///< what is dirty can be sent within the downtime
  uint64_t bytes_per_s = 0;
  uint64_t pages_per_s = 0;
  uint64_t dirty_pages_per_s = 0;
  Nanoseconds expected_downtime{0};  ///< if it were stopped now, at the speed of the pass
  unsigned throttle_percent = 0;     ///< for this share of the time the guest is to stand still
  std::string stall;  ///< why it does not come to an end, and what would help; empty while it does
};

/// The policy of a source. A pass is as long as what it has to send, so what is left shrinks from
/// pass to pass by the ratio of pages written to pages sent. If that is above the threshold twice
/// in a row, the guest is throttled, or more so, and the next two passes are looked at.
///
/// The ratio is one of pages, not of bytes on the wire: zero pages and compression do not make a
/// guest look busier than it is.
///
/// Thread: none; one owner.
class Convergence {
 public:
  Verdict judge(const Pass& pass, const ConvergenceLimits& limits);

 private:
  void throttle(const Pass& pass, const ConvergenceLimits& limits);
  std::string stall(const Pass& pass, const ConvergenceLimits& limits,
                    const Verdict& verdict) const;

  uint64_t passes_ = 0;
  unsigned high_ = 0;  // passes in a row above the threshold
  unsigned percent_ = 0;
};

}  // namespace rhea::migration
