#include <catch2/catch.hpp>
#include <utility>
#include <vector>

#include "tests/unit/devices/rtc_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using namespace std::chrono_literals;

// --- Registers --------------------------------------------------------------------------------

TEST_CASE("Rtc: every register has its first value and its writable bits", "[rtc][sweep]") {
  BqlGuard guard;
  struct Row {
    unsigned index;
    uint8_t first;
    uint8_t writable;
  };
  std::vector<Row> rows{{0x0a, 0x26, 0x7f}, {0x0b, 0x02, 0xff}, {0x0c, 0x00, 0x00},
                        {0x0d, 0x80, 0x00}, {0x01, 0x00, 0xff}, {0x03, 0x00, 0xff},
                        {0x05, 0x00, 0xff}};
  for (unsigned i = 0x0e; i < 0x80; ++i) {
    if (i != 0x32) rows.push_back({i, 0x00, 0xff});
  }
  for (const Row& row : rows) {
    for (const unsigned value : {0xffU, 0xa5U, 0x5aU, 0x00U}) {
      Chip chip;
      CAPTURE(row.index, value);
      CHECK(chip.in(row.index) == row.first);
      chip.out(row.index, value);
      uint8_t expected = static_cast<uint8_t>((row.first & ~row.writable) | (value & row.writable));
      if (row.index == 0x0b && (value & kSet) != 0) expected &= 0xef;  // SET clears UIE
      CHECK(chip.in(row.index) == expected);
    }
  }
}

TEST_CASE("Rtc: time registers hold any byte while SET is on", "[rtc][sweep]") {
  BqlGuard guard;
  for (const unsigned index : {0x00U, 0x02U, 0x04U, 0x06U, 0x07U, 0x08U, 0x09U, 0x32U}) {
    for (const unsigned value : {0xffU, 0x00U, 0x5aU}) {
      Chip chip;
      CAPTURE(index, value);
      chip.out(RtcReg::kB, kSet | k24);
      chip.out(index, value);
      CHECK(chip.in(index) == value);
      chip.pass(3s);
      CHECK(chip.in(index) == value);
    }
  }
}

TEST_CASE("Rtc: the index port drops the NMI bit and can not be read", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(0x80 | 0x40, 0x77);
  CHECK(chip.in(0x40) == 0x77);
  CHECK(chip.rtc->io_read(0, 1) == 0xff);
}

TEST_CASE("Rtc: stores to C and D are reported and change nothing", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kC, 0xff);
  chip.out(RtcReg::kD, 0x00);
  CHECK(chip.in(RtcReg::kC) == 0x00);
  CHECK(chip.in(RtcReg::kD) == 0x80);
  CHECK(chip.rtc->guest_errors() == 2);
}

TEST_CASE("Rtc: memory that the machine fills is there after a reset", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.rtc->set_memory(0x34, 0x12);
  chip.out(0x50, 0x99);
  chip.rtc->reset();
  CHECK(chip.in(0x34) == 0x12);
  CHECK(chip.in(0x50) == 0x99);
}

// --- Date -------------------------------------------------------------------------------------

TEST_CASE("Rtc: the host's date shows in each notation", "[rtc][sweep]") {
  BqlGuard guard;
  struct Row {
    uint8_t b;
    uint8_t hour, minute, second, day, month, year, century;
  };
  for (const Row row :
       {Row{k24, 0x16, 0x05, 0x09, 0x03, 0x02, 0x24, 0x20},
        Row{0, 0x84, 0x05, 0x09, 0x03, 0x02, 0x24, 0x20},
        Row{k24 | kBinary, 16, 5, 9, 3, 2, 24, 20}, Row{kBinary, 0x84, 5, 9, 3, 2, 24, 20}}) {
    Chip chip;
    chip.out(RtcReg::kB, row.b);
    CAPTURE(row.b);
    CHECK(chip.in(RtcReg::kHour) == row.hour);
    CHECK(chip.in(RtcReg::kMinute) == row.minute);
    CHECK(chip.in(RtcReg::kSecond) == row.second);
    CHECK(chip.in(RtcReg::kWeekday) == 7);  // Saturday
    CHECK(chip.in(RtcReg::kDay) == row.day);
    CHECK(chip.in(RtcReg::kMonth) == row.month);
    CHECK(chip.in(RtcReg::kYear) == row.year);
    CHECK(chip.in(RtcReg::kCentury) == row.century);
  }
}

TEST_CASE("Rtc: twelve-hour notation has no hour 0", "[rtc][sweep]") {
  BqlGuard guard;
  struct Row {
    int hour;
    uint8_t shown;
  };
  for (const Row row :
       {Row{0, 0x12}, Row{1, 0x01}, Row{11, 0x11}, Row{12, 0x92}, Row{13, 0x81}, Row{23, 0x91}}) {
    Chip chip(std::chrono::hours(row.hour));
    chip.out(RtcReg::kB, 0);
    CAPTURE(row.hour);
    CHECK(chip.in(RtcReg::kHour) == row.shown);
  }
}

TEST_CASE("Rtc: a date that is set runs on from there, over the end of a leap February", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kB, k24 | kBinary);
  chip.set_date(2028, 2, 28, 23, 59, 58);
  CHECK(chip.date() == std::vector<unsigned>{2028, 2, 28, 23, 59, 58});
  chip.pass(2s);
  CHECK(chip.date() == std::vector<unsigned>{2028, 2, 29, 0, 0, 0});
  chip.pass(24h);
  CHECK(chip.date() == std::vector<unsigned>{2028, 3, 1, 0, 0, 0});
}

TEST_CASE("Rtc: the date stands still while SET is on", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kB, kSet | k24);
  chip.pass(10s);
  CHECK(chip.in(RtcReg::kSecond) == 0x09);
  chip.out(RtcReg::kB, k24);
  CHECK(chip.in(RtcReg::kSecond) == 0x09);
  chip.pass(1s);
  CHECK(chip.in(RtcReg::kSecond) == 0x10);
}

TEST_CASE("Rtc: one register set without SET takes effect at once", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kMinute, 0x59);
  chip.pass(51s);
  CHECK(chip.in(RtcReg::kHour) == 0x17);
  CHECK(chip.in(RtcReg::kMinute) == 0x00);
}

TEST_CASE("Rtc: the weekday counts apart from the date", "[rtc]") {
  BqlGuard guard;
  Chip chip;  // a Saturday
  chip.out(RtcReg::kWeekday, 3);
  CHECK(chip.in(RtcReg::kWeekday) == 3);
  CHECK(chip.in(RtcReg::kDay) == 0x03);
  chip.pass(24h);
  CHECK(chip.in(RtcReg::kWeekday) == 4);
}

TEST_CASE("Rtc: what is no date is reported and the clock goes on", "[rtc][sweep]") {
  BqlGuard guard;
  struct Row {
    RtcReg reg;
    unsigned value;
  };
  for (const Row row :
       {Row{RtcReg::kMonth, 0x00}, Row{RtcReg::kMonth, 0x13}, Row{RtcReg::kDay, 0x31},
        Row{RtcReg::kDay, 0x00}, Row{RtcReg::kHour, 0x24}, Row{RtcReg::kMinute, 0x60},
        Row{RtcReg::kSecond, 0x0a}, Row{RtcReg::kYear, 0xff}, Row{RtcReg::kCentury, 0xa0}}) {
    Chip chip;
    CAPTURE(std::to_underlying(row.reg), row.value);
    chip.out(row.reg, row.value);
    CHECK(chip.rtc->guest_errors() == 1);
    chip.out(RtcReg::kB, k24 | kBinary);
    CHECK(chip.date() == std::vector<unsigned>{2024, 2, 3, 16, 5, 9});
  }
}

TEST_CASE("Rtc: the date follows the host across a pause of the machine", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.utc.advance(40s);  // the machine's clock stood still
  CHECK(chip.in(RtcReg::kSecond) == 0x49);
}

// --- Update in progress -----------------------------------------------------------------------

TEST_CASE("Rtc: UIP is on for the last 244 us of each second", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  CHECK(chip.in(RtcReg::kA) == 0x26);
  chip.pass(1s - 245us);
  CHECK(chip.in(RtcReg::kA) == 0x26);
  chip.pass(1us);
  CHECK(chip.in(RtcReg::kA) == 0xa6);
  CHECK(chip.in(RtcReg::kSecond) == 0x09);
  chip.pass(244us);
  CHECK(chip.in(RtcReg::kA) == 0x26);
  CHECK(chip.in(RtcReg::kSecond) == 0x10);
}

TEST_CASE("Rtc: SET and a held divider keep UIP off", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.pass(1s - 100us);
  REQUIRE((chip.in(RtcReg::kA) & 0x80) != 0);
  chip.out(RtcReg::kB, kSet | k24);
  CHECK((chip.in(RtcReg::kA) & 0x80) == 0);
  chip.out(RtcReg::kB, k24);
  chip.out(RtcReg::kA, 0x66);
  CHECK(chip.in(RtcReg::kA) == 0x66);
}

TEST_CASE("Rtc: letting go of the divider gives the first update half a second later", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.pass(300ms);
  // as Linux sets the clock: SET, hold, write, unset, let go
  chip.out(RtcReg::kB, kSet | k24);
  chip.out(RtcReg::kA, 0x70);
  chip.out(RtcReg::kSecond, 0x30);
  chip.out(RtcReg::kB, k24);
  chip.pass(5s);
  CHECK(chip.in(RtcReg::kSecond) == 0x30);
  chip.out(RtcReg::kA, 0x26);
  chip.pass(499ms);
  CHECK(chip.in(RtcReg::kSecond) == 0x30);
  chip.pass(1ms);
  CHECK(chip.in(RtcReg::kSecond) == 0x31);
}

// --- Interrupts -------------------------------------------------------------------------------

TEST_CASE("Rtc: the update interrupt comes each second until it is disabled", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kA, 0x20);  // no periodic flag in the picture
  chip.out(RtcReg::kB, kUie | k24);
  for (int i = 0; i < 3; ++i) {
    CHECK_FALSE(chip.raised());
    chip.pass(1s);
    CHECK(chip.raised());
    CHECK(chip.in(RtcReg::kC) == (0x80 | 0x10));
    CHECK_FALSE(chip.raised());
    CHECK(chip.in(RtcReg::kC) == 0x00);
  }
  chip.out(RtcReg::kB, k24);
  chip.pass(2s);
  CHECK_FALSE(chip.raised());
  CHECK(chip.in(RtcReg::kC) == 0x10);  // the flag is set all the same
}

TEST_CASE("Rtc: enabling an interrupt whose flag is set raises it at once", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.pass(1s);
  chip.out(RtcReg::kB, kUie | k24);
  CHECK(chip.raised());
}

TEST_CASE("Rtc: the periodic interrupt has each of its fifteen rates", "[rtc][sweep]") {
  BqlGuard guard;
  // [MC146818A, Periodic interrupt rate] with the 32.768 kHz time base
  const std::vector<Nanoseconds> periods{3'906'250ns, 7'812'500ns, 122'071ns,   244'141ns,
                                         488'282ns,   976'563ns,   1'953'125ns, 3'906'250ns,
                                         7'812'500ns, 15'625us,    31'250us,    62'500us,
                                         125ms,       250ms,       500ms};
  for (unsigned rate = 1; rate <= 15; ++rate) {
    Chip chip;
    CAPTURE(rate);
    chip.out(RtcReg::kA, 0x20 | rate);
    chip.out(RtcReg::kB, kPie | k24);
    const Nanoseconds period = periods[rate - 1];
    chip.pass(period - 1ns);
    CHECK_FALSE(chip.raised());
    chip.pass(1ns);
    CHECK(chip.raised());
    CHECK((chip.in(RtcReg::kC) & 0xc0) == 0xc0);
    CHECK_FALSE(chip.raised());
  }
}

TEST_CASE("Rtc: a minute of 1024 Hz gives 61440 interrupts and no drift", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kB, kPie | k24);
  unsigned count = 0;
  while (chip.machine.now() < 60s) {
    chip.pass(chip.timers.next_deadline() - chip.machine.now());
    if (chip.in(RtcReg::kC) == 0xc0 || !chip.raised()) ++count;
  }
  CHECK(count == 61'440);
  CHECK(chip.machine.now() == 60s);
}

TEST_CASE("Rtc: rate 0 and a held divider give no periodic interrupt", "[rtc]") {
  BqlGuard guard;
  for (const unsigned a : {0x20U, 0x66U, 0x76U}) {
    Chip chip;
    chip.out(RtcReg::kA, a);
    chip.out(RtcReg::kB, kPie | k24);
    chip.pass(5s);
    CHECK_FALSE(chip.raised());
  }
}

TEST_CASE("Rtc: the alarm matches value by value, with don't-care codes", "[rtc][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    uint8_t b;
    unsigned hour, minute, second;
    Nanoseconds wait;  // from 16:05:09
  };
  const std::vector<Row> rows{
      {"exact", k24, 0x16, 0x05, 0x11, 2s},
      {"next minute", k24, 0x16, 0x06, 0x00, 51s},
      {"each second", k24, 0xff, 0xff, 0xff, 1s},
      {"each minute at :30", k24, 0xc0, 0xc0, 0x30, 21s},
      {"each hour at :04:00", k24, 0xff, 0x04, 0x00, 58min + 51s},
      {"tomorrow, same second", k24, 0x16, 0x05, 0x09, 24h},
      {"binary", k24 | kBinary, 16, 5, 19, 10s},
      {"twelve hours", 0, 0x85, 0x00, 0x00, 54min + 51s},
      {"midnight in twelve hours", 0, 0x12, 0x00, 0x00, 7h + 54min + 51s},
  };
  for (const Row& row : rows) {
    Chip chip;
    CAPTURE(row.name);
    chip.out(RtcReg::kHourAlarm, row.hour);
    chip.out(RtcReg::kMinuteAlarm, row.minute);
    chip.out(RtcReg::kSecondAlarm, row.second);
    chip.out(RtcReg::kB, row.b | kAie);
    chip.pass(row.wait - 1ns);
    CHECK_FALSE(chip.raised());
    chip.pass(1ns);
    CHECK(chip.raised());
    CHECK((chip.in(RtcReg::kC) & 0xa0) == 0xa0);
  }
}

TEST_CASE("Rtc: an alarm that can not come never comes", "[rtc][sweep]") {
  BqlGuard guard;
  for (const unsigned second : {0x60U, 0x0aU, 0xa0U}) {
    Chip chip;
    chip.out(RtcReg::kHourAlarm, 0xff);
    chip.out(RtcReg::kMinuteAlarm, 0xff);
    chip.out(RtcReg::kSecondAlarm, second);
    chip.out(RtcReg::kB, k24 | kAie);
    CHECK(chip.timers.next_deadline() == Nanoseconds::max());
    chip.pass(25h);
    CHECK_FALSE(chip.raised());
  }
}

TEST_CASE("Rtc: an alarm that passed while the machine stood still is not lost", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kHourAlarm, 0x16);
  chip.out(RtcReg::kMinuteAlarm, 0x05);
  chip.out(RtcReg::kSecondAlarm, 0x20);
  chip.out(RtcReg::kB, k24 | kAie);
  chip.utc.advance(1h);
  chip.pass(11s);  // the timer comes due in the machine's time
  CHECK(chip.raised());
}

TEST_CASE("Rtc: an idle clock arms no timer", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  CHECK(chip.timers.next_deadline() == Nanoseconds::max());
  chip.out(RtcReg::kB, kUie | k24);
  CHECK(chip.timers.next_deadline() == 1s);
  chip.pass(1s);
  CHECK(chip.timers.next_deadline() == Nanoseconds::max());  // raised: waits for the guest
}

TEST_CASE("Rtc: reset clears enables and flags and keeps the date", "[rtc]") {
  BqlGuard guard;
  Chip chip;
  chip.out(RtcReg::kB, kUie | kPie | kAie | 0x08 | k24);
  chip.pass(1s);
  REQUIRE(chip.raised());
  chip.rtc->reset();
  CHECK_FALSE(chip.raised());
  CHECK(chip.in(RtcReg::kB) == k24);
  CHECK(chip.in(RtcReg::kC) == 0);
  CHECK(chip.in(RtcReg::kSecond) == 0x10);
}

TEST_CASE("Rtc: a date beyond what nanoseconds count is reported, and the clock goes on",
          "[rtc][sweep]") {
  BqlGuard guard;
  for (const unsigned year : {0U, 1800U, 2243U, 9999U}) {
    Chip chip;
    chip.out(RtcReg::kB, kBinary | k24);
    const auto before = chip.date();
    chip.set_date(year, 1, 1, 0, 0, 0);
    CAPTURE(year);
    CHECK(chip.date() == before);
    CHECK(chip.rtc->guest_errors() > 0);
  }
  Chip chip;
  chip.out(RtcReg::kB, kBinary | k24);
  chip.set_date(2242, 1, 1, 0, 0, 0);
  CHECK(chip.date() == std::vector<unsigned>{2242, 1, 1, 0, 0, 0});
}
