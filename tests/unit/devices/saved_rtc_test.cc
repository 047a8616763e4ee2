// A clock's state on its way to another machine.
#include <catch2/catch.hpp>
#include <limits>
#include <string>
#include <vector>

#include "tests/unit/devices/rtc_fixture.h"
#include "tests/unit/devices/saved_device_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using namespace std::chrono_literals;

TEST_CASE("Rtc: the guest's date follows UTC across a load, and so do memory and weekday",
          "[rtc][saved]") {
  BqlGuard guard;
  Chip a, b(kStart + 5s);
  a.out(RtcReg::kB, kBinary | k24);
  a.set_date(2030, 12, 31, 23, 59, 57);
  a.out(RtcReg::kWeekday, 2);
  a.out(0x40, 0x5a);
  REQUIRE(test::hand_over(*a.rtc, *b.rtc).has_value());
  CHECK(b.date() == std::vector<unsigned>{2031, 1, 1, 0, 0, 2});  // five seconds on the way
  CHECK(b.in(RtcReg::kWeekday) == 3);
  CHECK(b.in(0x40) == 0x5a);
}

TEST_CASE("Rtc: a second that ended on the way raises its interrupt, once", "[rtc][saved]") {
  BqlGuard guard;
  Chip a, b(kStart + 3s);
  a.out(RtcReg::kB, k24 | kUie);
  REQUIRE(test::hand_over(*a.rtc, *b.rtc).has_value());
  CHECK(b.raised());
  CHECK(b.in(RtcReg::kC) == 0x90);
  CHECK_FALSE(b.raised());
  b.pass(1s);
  CHECK(b.raised());
}

TEST_CASE("Rtc: what came due between the load and the run is raised as the machine runs",
          "[rtc][saved]") {
  BqlGuard guard;
  Chip a, b;
  a.out(RtcReg::kB, k24 | kBinary | kAie);
  a.set_date(2030, 1, 1, 12, 0, 0);
  a.out(RtcReg::kSecondAlarm, 0);
  a.out(RtcReg::kMinuteAlarm, 10);
  a.out(RtcReg::kHourAlarm, 12);
  REQUIRE(test::hand_over(*a.rtc, *b.rtc).has_value());
  b.utc.advance(9min);
  b.rtc->resume_loaded();
  CHECK_FALSE(b.raised());
  b.pass(59s);
  CHECK_FALSE(b.raised());
  b.pass(1s);
  CHECK(b.raised());
  Chip c;
  REQUIRE(test::hand_over(*a.rtc, *c.rtc).has_value());
  c.utc.advance(1h);
  c.rtc->resume_loaded();
  CHECK(c.raised());
}

TEST_CASE("Rtc: the periodic interrupt comes when it would have come", "[rtc][saved]") {
  BqlGuard guard;
  Chip a, b;
  a.out(RtcReg::kA, 0x2f);  // every half second
  a.out(RtcReg::kB, k24 | kPie);
  a.pass(400ms);
  b.machine.set(std::chrono::hours(1) + 123ms);
  REQUIRE(test::hand_over(*a.rtc, *b.rtc).has_value());
  CHECK_FALSE(b.raised());
  b.pass(99ms);
  CHECK_FALSE(b.raised());
  b.pass(2ms);
  CHECK(b.in(RtcReg::kC) == 0xc0);
  b.pass(498ms);
  CHECK_FALSE(b.raised());
  b.pass(2ms);
  CHECK(b.raised());
}

TEST_CASE("Rtc: an interrupt that was raised is raised after a load", "[rtc][saved]") {
  BqlGuard guard;
  Chip a, b;
  a.out(RtcReg::kB, k24 | kPie);
  a.pass(1s);
  REQUIRE(a.raised());
  REQUIRE(test::hand_over(*a.rtc, *b.rtc).has_value());
  CHECK(b.raised());
  CHECK(b.in(RtcReg::kC) == a.in(RtcReg::kC));
}

TEST_CASE("Rtc: a state that the chip can not be in is refused", "[rtc][saved][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* field;
    void (*spoil)(RtcMc146818State&);
  };
  Chip chip;
  for (const Row& row : {
           Row{"index", [](auto& s) { s.index = 0x80; }},
           Row{"memory", [](auto& s) { s.memory[0x0a] = 0x80; }},
           Row{"memory", [](auto& s) { s.memory[0x0b] = kSet | kUie; }},
           Row{"memory", [](auto& s) { s.memory[0x0c] = 0x80; }},
           Row{"memory", [](auto& s) { s.memory[0x0d] = 0x80; }},
           Row{"offset_ns", [](auto& s) { s.offset_ns = std::numeric_limits<int64_t>::max(); }},
           Row{"offset_ns", [](auto& s) { s.offset_ns = std::numeric_limits<int64_t>::min(); }},
           Row{"weekday_offset", [](auto& s) { s.weekday_offset = 7; }},
           Row{"seen_second", [](auto& s) { s.seen_second = std::numeric_limits<int64_t>::max(); }},
           Row{"seen_second", [](auto& s) { s.seen_second = std::numeric_limits<int64_t>::min(); }},
           Row{"divider", [](auto& s) { s.divider = 1 << 14; }},
       }) {
    auto state = test::state_of<RtcMc146818State>(*chip.rtc);
    CHECK(test::refusal(*chip.rtc, state).empty());
    row.spoil(state);
    CAPTURE(row.field);
    CHECK(test::refusal(*chip.rtc, state).starts_with("rtc: field '" + std::string(row.field)));
  }
}
