#include "migration/convergence.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "memory/dirty_bitmap.h"

namespace rhea::migration {
namespace {

constexpr double kPage = memory::kDirtyPageBytes;
constexpr double kMiB = 1 << 20;

// No pass is shorter than this, so that nothing is divided by zero.
double seconds(Nanoseconds t) { return std::max(std::chrono::duration<double>(t).count(), 1e-6); }

Nanoseconds nanoseconds(double s) {
  constexpr double kLongest = 1e6;
  return std::chrono::duration_cast<Nanoseconds>(
      std::chrono::duration<double>(std::min(s, kLongest)));
}

std::string what_is_done(unsigned percent, unsigned most) {
  if (percent == 0) return {};
  return fmt::format("; auto-converge throttles it by {} % now{}", percent,
                     percent == most ? ", the most it may" : "");
}

}  // namespace

Verdict Convergence::judge(const Pass& pass, const ConvergenceLimits& limits) {
  ++passes_;
  const double speed = static_cast<double>(pass.sent_bytes) / seconds(pass.took);
  const double left = static_cast<double>(pass.dirty_after);
  Verdict verdict;
  verdict.bytes_per_s = static_cast<uint64_t>(speed);
  verdict.pages_per_s =
      static_cast<uint64_t>(static_cast<double>(pass.sent_pages) / seconds(pass.took));
  verdict.dirty_pages_per_s = static_cast<uint64_t>(left / seconds(pass.took));
  verdict.expected_downtime = nanoseconds(left * kPage / std::max(speed, 1.0));
  verdict.enough = verdict.expected_downtime <= limits.downtime;
  if (!verdict.enough) {
    throttle(pass, limits);
    verdict.stall = stall(pass, limits, verdict);
  }
  verdict.throttle_percent = percent_;
  return verdict;
}

void Convergence::throttle(const Pass& pass, const ConvergenceLimits& limits) {
  if (limits.auto_converge == AutoConverge::kNo) return;
  const ThrottleParameters& parameters = limits.throttle;
  const bool high = pass.dirty_after * 100 > pass.sent_pages * parameters.trigger_threshold;
  high_ = high ? high_ + 1 : 0;
  if (high_ == 2) {
    high_ = 0;
    percent_ = percent_ == 0 ? parameters.initial : percent_ + parameters.increment;
  }
  percent_ = std::min(percent_, parameters.max);  // which may have been lowered
}

// A pass that leaves nearly as much as it began with: more of them will not help.
std::string Convergence::stall(const Pass& pass, const ConvergenceLimits& limits,
                               const Verdict& verdict) const {
  if (passes_ < 2 || pass.dirty_after * 10 < pass.dirty_before * 9) return {};
  const double written = static_cast<double>(pass.dirty_after) * kPage / seconds(pass.took);
  return fmt::format(
      "the guest writes {:.0f} MiB/s to other pages, the connection carries {:.0f} MiB/s: "
      "a downtime-limit of {} ms would end it, or more bandwidth, or {}{}",
      written / kMiB, static_cast<double>(verdict.bytes_per_s) / kMiB,
      std::chrono::ceil<std::chrono::milliseconds>(verdict.expected_downtime).count(),
      limits.auto_converge == AutoConverge::kNo ? "auto-converge, which slows the guest"
                                                : "a guest that writes less",
      what_is_done(percent_, limits.throttle.max));
}

}  // namespace rhea::migration
