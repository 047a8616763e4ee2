// RtcCalendar: the clock chip's ten time registers as dates, in each of its four notations.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace rhea::devices {

/// How the guest wants to see numbers and hours.
struct RtcNotation {
  bool binary = false;    ///< else BCD
  bool hours_24 = false;  ///< else 1-12 with bit 7 for p.m.
};

/// The time registers, decoded or not; the register numbers are RtcReg's.
struct RtcTime {
  uint8_t second = 0, minute = 0, hour = 0, weekday = 1, day = 1, month = 1, year = 0, century = 20;
};

/// Seconds since 1970-01-01 00:00 to a date, as the registers show it. The weekday runs from 1,
/// Sunday.
RtcTime rtc_time_from_unix(int64_t seconds, RtcNotation notation) noexcept;

/// The inverse, leaving the weekday aside. Errors: empty when a register holds what is no number
/// in the notation, or when the fields are no date.
std::optional<int64_t> unix_from_rtc_time(const RtcTime& time, RtcNotation notation) noexcept;

/// An alarm register: a value, any value, or one that never comes.
struct AlarmField {
  enum class Kind : uint8_t { kValue, kAny, kNever } kind = Kind::kNever;
  int value = 0;
  bool matches(int64_t v) const noexcept {
    return kind == Kind::kAny || (kind == Kind::kValue && value == v);
  }
};
struct Alarm {
  AlarmField second, minute, hour;
};

/// Decodes the alarm registers. The two top bits set mean "any". [MC146818A, Alarm function]
Alarm decode_alarm(uint8_t second, uint8_t minute, uint8_t hour, RtcNotation notation) noexcept;

/// The first second after `after` at which the alarm matches; empty if there is none.
std::optional<int64_t> next_alarm(const Alarm& alarm, int64_t after) noexcept;

}  // namespace rhea::devices
