// What the tests of the clock share: a chip with both its times and its wire.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "devices/rtc_mc146818.h"
#include "tests/support/fake_irq.h"
#include "tests/support/manual_clock.h"

namespace rhea::test {

using devices::RtcMc146818;
using devices::RtcReg;

inline constexpr unsigned kRtcIrq = 8;
// Saturday 2024-02-03 16:05:09 UTC
inline constexpr Nanoseconds kStart = std::chrono::seconds(1'706'976'309);
inline constexpr uint8_t kSet = 0x80, kPie = 0x40, kAie = 0x20, kUie = 0x10, kBinary = 0x04,
                         k24 = 0x02;

struct Chip {
  explicit Chip(Nanoseconds utc_start = kStart) REQUIRES(bql) : utc(utc_start) {
    MUST(rtc->realize());
  }
  ~Chip() {
    bql.assert_held();
    rtc->unrealize();
  }
  uint8_t in(unsigned index) {
    rtc->io_write(0, index, 1);
    return static_cast<uint8_t>(rtc->io_read(1, 1));
  }
  uint8_t in(RtcReg reg) { return in(std::to_underlying(reg)); }
  void out(unsigned index, unsigned value) {
    rtc->io_write(0, index, 1);
    rtc->io_write(1, value, 1);
  }
  void out(RtcReg reg, unsigned value) { out(std::to_underlying(reg), value); }
  /// Time passes for host and machine alike, timer by timer.
  void pass(Nanoseconds time) {
    const Nanoseconds end = machine.now() + time;
    while (machine.now() < end) {
      const Nanoseconds next = std::clamp(timers.next_deadline(), machine.now(), end);
      utc.advance(next - machine.now());
      machine.set(next);
      timers.run_expired();
    }
  }
  void set_date(unsigned year, unsigned month, unsigned day, unsigned h, unsigned m, unsigned s) {
    const uint8_t b = in(RtcReg::kB);
    out(RtcReg::kB, b | kSet);
    out(RtcReg::kCentury, year / 100);
    out(RtcReg::kYear, year % 100);
    out(RtcReg::kMonth, month);
    out(RtcReg::kDay, day);
    out(RtcReg::kHour, h);
    out(RtcReg::kMinute, m);
    out(RtcReg::kSecond, s);
    out(RtcReg::kB, b & ~unsigned{kSet});
  }
  std::vector<unsigned> date() {
    return {in(RtcReg::kCentury) * 100U + in(RtcReg::kYear),
            in(RtcReg::kMonth),
            in(RtcReg::kDay),
            in(RtcReg::kHour),
            in(RtcReg::kMinute),
            in(RtcReg::kSecond)};
  }
  bool raised() const { return irq.level(kRtcIrq); }

  ManualClock utc;
  ManualClock machine;
  TimerList timers{machine, [] {}};
  FakeIrq irq;
  std::shared_ptr<RtcMc146818> rtc =
      std::make_shared<RtcMc146818>("rtc", irq.line(kRtcIrq), utc, timers);
};

}  // namespace rhea::test
