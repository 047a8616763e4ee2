#include "devices/guest_error.h"

#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {

std::string_view to_string(GuestError error) noexcept {
  switch (error) {
    case GuestError::kBadAccess:
      return "bad access";
    case GuestError::kBadValue:
      return "bad value";
    case GuestError::kBadCommand:
      return "unknown command";
    case GuestError::kReadOnly:
      return "store to a read-only register";
    case GuestError::kOverrun:
      return "overrun";
  }
  RHEA_UNREACHABLE();
}

bool RateLimiter::allow(TimePoint now) noexcept {
  const auto ticks = now.time_since_epoch().count();
  const auto start = period_start_.load(std::memory_order_relaxed);
  const auto period = std::chrono::duration_cast<TimePoint::duration>(kPeriod).count();
  if (start == 0 || ticks - start >= period) {
    period_start_.store(ticks, std::memory_order_relaxed);
    shown_.store(0, std::memory_order_relaxed);
  }
  return shown_.fetch_add(1, std::memory_order_relaxed) < kBurst;
}

void GuestErrors::report(GuestError error, uint64_t where, uint64_t value) noexcept {
  const uint64_t count = count_.fetch_add(1, std::memory_order_relaxed) + 1;
  RHEA_TRACE(kDevices, "guest_error device={} kind=\"{}\" where={:#x} value={:#x}", device_,
             to_string(error), where, value);
  if (!log_enabled(LogFolder::kDevices, LogLevel::kDebug)) return;
  if (!limiter_.allow(std::chrono::steady_clock::now())) return;
  RHEA_LOG(kDevices, kDebug, "{}: the guest made a mistake: {} at {:#x}, value {:#x} (number {})",
           device_, to_string(error), where, value, count);
}

}  // namespace rhea::devices
