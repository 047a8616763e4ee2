#include "devices/rtc_calendar.h"

#include <chrono>

namespace rhea::devices {
namespace {

constexpr uint8_t kPm = 0x80;
constexpr uint8_t kAnyBits = 0xc0;
constexpr int64_t kDay = 86'400;

uint8_t encode(unsigned value, RtcNotation notation) {
  return static_cast<uint8_t>(notation.binary ? value : (value / 10) << 4 | value % 10);
}

std::optional<int> decode(uint8_t raw, RtcNotation notation) {
  if (notation.binary) return raw;
  if ((raw & 0x0f) > 9 || raw >> 4 > 9) return std::nullopt;
  return (raw >> 4) * 10 + (raw & 0x0f);
}

std::optional<int> decode_in(uint8_t raw, RtcNotation notation, int low, int high) {
  const auto value = decode(raw, notation);
  return value && *value >= low && *value <= high ? value : std::nullopt;
}

uint8_t encode_hour(unsigned hour, RtcNotation notation) {
  if (notation.hours_24) return encode(hour, notation);
  const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<uint8_t>(encode(twelve, notation) | (hour >= 12 ? kPm : 0));
}

std::optional<int> decode_hour(uint8_t raw, RtcNotation notation) {
  if (notation.hours_24) return decode_in(raw, notation, 0, 23);
  const auto twelve = decode_in(raw & 0x7f, notation, 1, 12);
  if (!twelve) return std::nullopt;
  return *twelve % 12 + ((raw & kPm) != 0 ? 12 : 0);
}

int64_t floor_mod(int64_t value, int64_t by) { return ((value % by) + by) % by; }

}  // namespace

RtcTime rtc_time_from_unix(int64_t seconds, RtcNotation notation) noexcept {
  using namespace std::chrono;
  const int64_t second_of_day = floor_mod(seconds, kDay);
  const sys_days date{days{(seconds - second_of_day) / kDay}};
  const year_month_day ymd{date};
  const auto year = static_cast<unsigned>(floor_mod(static_cast<int>(ymd.year()), 10'000));
  RtcTime time;
  time.second = encode(static_cast<unsigned>(second_of_day % 60), notation);
  time.minute = encode(static_cast<unsigned>(second_of_day / 60 % 60), notation);
  time.hour = encode_hour(static_cast<unsigned>(second_of_day / 3600), notation);
  time.weekday = encode(weekday{date}.c_encoding() + 1, notation);
  time.day = encode(static_cast<unsigned>(ymd.day()), notation);
  time.month = encode(static_cast<unsigned>(ymd.month()), notation);
  time.year = encode(year % 100, notation);
  time.century = encode(year / 100, notation);
  return time;
}

std::optional<int64_t> unix_from_rtc_time(const RtcTime& time, RtcNotation notation) noexcept {
  using namespace std::chrono;
  const auto second = decode_in(time.second, notation, 0, 59);
  const auto minute = decode_in(time.minute, notation, 0, 59);
  const auto hour = decode_hour(time.hour, notation);
  const auto day_of_month = decode_in(time.day, notation, 1, 31);
  const auto month_of_year = decode_in(time.month, notation, 1, 12);
  const auto years = decode_in(time.year, notation, 0, 99);
  const auto centuries = decode_in(time.century, notation, 0, 99);
  if (!second || !minute || !hour || !day_of_month || !month_of_year || !years || !centuries) {
    return std::nullopt;
  }
  const year_month_day date{year{*centuries * 100 + *years},
                            month{static_cast<unsigned>(*month_of_year)},
                            day{static_cast<unsigned>(*day_of_month)}};
  if (!date.ok()) return std::nullopt;
  const int64_t since_epoch = sys_days{date}.time_since_epoch().count();
  return since_epoch * kDay + *hour * 3600 + *minute * 60 + *second;
}

Alarm decode_alarm(uint8_t second, uint8_t minute, uint8_t hour, RtcNotation notation) noexcept {
  const auto field = [](uint8_t raw, std::optional<int> value) -> AlarmField {
    using Kind = AlarmField::Kind;
    if ((raw & kAnyBits) == kAnyBits) return {.kind = Kind::kAny};
    if (!value) return {.kind = Kind::kNever};
    return {.kind = Kind::kValue, .value = *value};
  };
  return {.second = field(second, decode_in(second, notation, 0, 59)),
          .minute = field(minute, decode_in(minute, notation, 0, 59)),
          .hour = field(hour, decode_hour(hour, notation))};
}

// Skips whole hours and minutes that can not match: at most 25 + 60 + 60 steps, so that a guest
// that writes alarms all day costs its own time only.
std::optional<int64_t> next_alarm(const Alarm& alarm, int64_t after) noexcept {
  int64_t t = after + 1;
  while (t <= after + kDay) {
    const int64_t of_day = floor_mod(t, kDay);
    if (!alarm.hour.matches(of_day / 3600)) {
      t += 3600 - of_day % 3600;
    } else if (!alarm.minute.matches(of_day / 60 % 60)) {
      t += 60 - of_day % 60;
    } else if (!alarm.second.matches(of_day % 60)) {
      ++t;
    } else {
      return t;
    }
  }
  return std::nullopt;
}

}  // namespace rhea::devices
