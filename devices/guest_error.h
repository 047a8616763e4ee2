// GuestErrors: what to do when a guest does something that its specification forbids.
//
// A guest's mistake is never an error of ours and never a reason to stop. The device gives the
// reaction that its specification names (usually: nothing happens, reads give ones), and says so
// here: it is counted, traced, and logged at debug level, but not more often than a log can bear.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace rhea::devices {

enum class GuestError : uint8_t {
  kBadAccess,   ///< a width or an offset that the register does not have
  kBadValue,    ///< a value outside what the register takes
  kBadCommand,  ///< a command that the device does not know
  kReadOnly,    ///< a store to what can only be read
  kOverrun,     ///< data pushed at a device that had said it was full
};
std::string_view to_string(GuestError error) noexcept;

/// Lets a burst through, then one per period.
/// Thread: any; several at once may let one more through than they should, which is harmless.
class RateLimiter {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr uint32_t kBurst = 10;
  static constexpr std::chrono::seconds kPeriod{1};

  /// Whether an event at `now` may be shown. A new period gives a new burst.
  bool allow(TimePoint now) noexcept;

 private:
  // relaxed everywhere: it decides only whether a line is printed.
  std::atomic<TimePoint::rep> period_start_{0};
  std::atomic<uint32_t> shown_{0};
};

/// The guest errors of one device.
/// Thread: any (lock-free regions report too).
class GuestErrors {
 public:
  explicit GuestErrors(std::string device) : device_(std::move(device)) {}

  /// `where` is the register or offset, `value` what was stored there or the access's width.
  void report(GuestError error, uint64_t where, uint64_t value) noexcept;
  uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }

 private:
  const std::string device_;
  std::atomic<uint64_t> count_{0};  // relaxed: a statistic, orders nothing
  RateLimiter limiter_;
};

}  // namespace rhea::devices
