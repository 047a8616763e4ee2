#include "devices/acpi_pm.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/fake_irq.h"
#include "tests/support/manual_clock.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/saved_device_fixture.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::devices;
using namespace std::chrono_literals;

namespace {

constexpr unsigned kSci = 9;
constexpr uint64_t kSts = 0, kEn = 2, kCnt = 4;  // offsets in the event block
constexpr uint64_t kGpeSts = 0, kGpeEn = 2;

struct Pm {
  explicit Pm(PmTimerWidth timer_width = PmTimerWidth::k32Bits) REQUIRES(bql) : width(timer_width) {
    MUST(pm->realize());
  }
  ~Pm() {
    bql.assert_held();
    pm->unrealize();
  }
  uint64_t in(uint64_t offset, unsigned size = 2) {
    return pm->events_handler().io_read(offset, size);
  }
  void out(uint64_t offset, uint64_t value, unsigned size = 2) {
    pm->events_handler().io_write(offset, value, size);
  }
  uint64_t gpe_in(uint64_t offset, unsigned size = 2) {
    return pm->gpe_handler().io_read(offset, size);
  }
  void gpe_out(uint64_t offset, uint64_t value, unsigned size = 2) {
    pm->gpe_handler().io_write(offset, value, size);
  }
  uint64_t timer(unsigned size = 4) { return pm->timer_handler().io_read(0, size); }
  void pass(Nanoseconds time) {
    clock.advance(time);
    timers.run_expired();
  }
  bool sci() const { return irq.level(kSci); }

  PmTimerWidth width;
  unsigned power_offs = 0;
  test::ManualClock clock;
  TimerList timers{clock, [] {}};
  test::FakeIrq irq;
  std::shared_ptr<AcpiPm> pm =
      std::make_shared<AcpiPm>("pm", irq.line(kSci), timers, width, [this] { ++power_offs; });
};

}  // namespace

// --- Registers --------------------------------------------------------------------------------

TEST_CASE("Pm: every register has its reset value and its writable bits at every width",
          "[pm][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    uint64_t offset;
    uint16_t reset_value;
    uint16_t writable;
  };
  const std::vector<Row> rows{
      {"PM1_STS", kSts, 0x0000, 0x0000},
      {"PM1_EN", kEn, 0x0000, 0x0721},
      {"PM1_CNT", kCnt, 0x0001, 0x1c02},
  };
  for (const Row& row : rows) {
    for (const unsigned value : {0xffffU, 0x5555U, 0xaaaaU, 0x0000U}) {
      const unsigned stored = row.offset == kCnt ? value & ~0x2000U : value;  // not SLP_EN
      const unsigned expected = (row.reset_value & ~row.writable) | (stored & row.writable);
      CAPTURE(row.name, value);
      Pm words;
      CHECK(words.in(row.offset) == row.reset_value);
      words.out(row.offset, stored);
      CHECK(words.in(row.offset) == expected);
      CHECK(words.in(row.offset, 1) == (expected & 0xff));
      CHECK(words.in(row.offset + 1, 1) == expected >> 8);

      Pm bytes;
      bytes.out(row.offset, stored & 0xff, 1);
      bytes.out(row.offset + 1, stored >> 8, 1);
      CHECK(bytes.in(row.offset) == expected);
    }
  }
}

TEST_CASE("Pm: the GPE block's status bits clear by 1 and its enables are plain", "[pm][sweep]") {
  BqlGuard guard;
  for (unsigned bit = 0; bit < AcpiPm::kGpes; ++bit) {
    Pm pm;
    CAPTURE(bit);
    pm.pm->raise_gpe(bit);
    CHECK(pm.gpe_in(kGpeSts) == 1U << bit);
    pm.gpe_out(kGpeSts, 0xffffU & ~(1U << bit));
    CHECK(pm.gpe_in(kGpeSts) == 1U << bit);
    CHECK_FALSE(pm.sci());
    pm.gpe_out(kGpeEn, 1U << bit);
    CHECK(pm.gpe_in(kGpeEn) == 1U << bit);
    CHECK(pm.sci());
    pm.gpe_out(bit / 8, 1U << bit % 8, 1);
    CHECK(pm.gpe_in(kGpeSts) == 0);
    CHECK_FALSE(pm.sci());
  }
}

TEST_CASE("Pm: who waits for a general-purpose event to be enabled is told each time", "[pm]") {
  BqlGuard guard;
  Pm pm;
  int told = 0;
  pm.pm->set_gpe_listener(9, [&told, raised = pm.pm.get()] {
    bql.assert_held();
    ++told;
    raised->raise_gpe(9);
  });
  pm.gpe_out(kGpeEn, 1U << 8);
  CHECK(told == 0);
  pm.gpe_out(kGpeEn, 1U << 8 | 1U << 9);
  CHECK(told == 1);
  CHECK(pm.sci());
  pm.gpe_out(kGpeEn, 1U << 9);
  CHECK(told == 1);
  pm.gpe_out(kGpeSts, 0xffff);
  pm.gpe_out(kGpeEn, 0);
  pm.gpe_out(kGpeEn + 1, 1U << 1, 1);
  CHECK(told == 2);
  CHECK(pm.sci());
}

TEST_CASE("Pm: a dword reads and writes status and enable together", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.out(kSts, 0x0100'0000, 4);
  pm.pm->power_button();
  CHECK(pm.in(kSts, 4) == 0x0100'0100);
  pm.gpe_out(0, 0x0002'0000, 4);
  pm.pm->raise_gpe(1);
  CHECK(pm.gpe_in(0, 4) == 0x0002'0002);
}

TEST_CASE("Pm: reset clears all of it", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.out(kEn, 0xffff);
  pm.gpe_out(kGpeEn, 0xffff);
  pm.pm->power_button();
  pm.pm->raise_gpe(3);
  REQUIRE(pm.sci());
  pm.pm->reset();
  CHECK_FALSE(pm.sci());
  CHECK(pm.in(kSts, 4) == 0);
  CHECK(pm.in(kCnt) == 1);
  CHECK(pm.gpe_in(0, 4) == 0);
}

// --- Events -----------------------------------------------------------------------------------

TEST_CASE("Pm: the power button raises the SCI once enabled and until it is cleared", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.pm->power_button();
  CHECK(pm.in(kSts) == 0x0100);
  CHECK_FALSE(pm.sci());
  pm.out(kEn, 0x0100);
  CHECK(pm.sci());
  pm.out(kSts, 0x0021);  // other bits
  CHECK(pm.sci());
  pm.out(kSts, 0x0100);
  CHECK(pm.in(kSts) == 0);
  CHECK_FALSE(pm.sci());
}

TEST_CASE("Pm: the SCI stays up while any source is left", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.out(kEn, 0x0100);
  pm.gpe_out(kGpeEn, 0x0002);
  pm.pm->power_button();
  pm.pm->raise_gpe(1);
  pm.out(kSts, 0x0100);
  CHECK(pm.sci());
  pm.gpe_out(kGpeSts, 0x0002);
  CHECK_FALSE(pm.sci());
}

TEST_CASE("Pm: S5 powers off; SLP_EN reads 0 and SCI_EN stays 1", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.out(kCnt, 0x2000);
  CHECK(pm.power_offs == 1);
  CHECK(pm.in(kCnt) == 0x0001);
  pm.out(kCnt + 1, 0x20, 1);
  CHECK(pm.power_offs == 2);
}

TEST_CASE("Pm: a sleep type without SLP_EN does nothing", "[pm]") {
  BqlGuard guard;
  Pm pm;
  pm.out(kCnt, 0x0000);
  pm.out(kCnt, 0x1c00);
  CHECK(pm.power_offs == 0);
  CHECK(pm.in(kCnt) == 0x1c01);
}

TEST_CASE("Pm: a sleep state that is not offered wakes at once and is reported", "[pm][sweep]") {
  BqlGuard guard;
  for (unsigned type = 1; type < 8; ++type) {
    Pm pm;
    pm.out(kCnt, 0x2000 | type << 10);
    CHECK(pm.power_offs == 0);
    CHECK(pm.in(kSts) == 0x8000);
    CHECK(pm.pm->guest_errors() == 1);
    pm.out(kSts, 0x8000);
    CHECK(pm.in(kSts) == 0);
  }
}

// --- Timer ------------------------------------------------------------------------------------

TEST_CASE("Pm: the timer counts 3.579545 MHz of the machine's time", "[pm][timer]") {
  BqlGuard guard;
  Pm pm;
  CHECK(pm.timer() == 0);
  pm.pass(1s);
  CHECK(pm.timer() == 3'579'545);
  CHECK(pm.timer(1) == (3'579'545 & 0xff));
  CHECK(pm.timer(2) == (3'579'545 & 0xffff));
  CHECK(pm.pm->timer_handler().io_read(2, 2) == 3'579'545 >> 16);
  pm.clock.set(100h);
  CHECK(pm.timer() == (360'000ULL * 3'579'545 & 0xffff'ffff));
}

TEST_CASE("Pm: a 24-bit timer wraps at 24 bits", "[pm][timer]") {
  BqlGuard guard;
  Pm pm(PmTimerWidth::k24Bits);
  pm.clock.set(AcpiPmTimer::time_of_tick((1U << 24) - 1));
  CHECK(pm.timer() == 0xff'ffff);
  pm.clock.set(AcpiPmTimer::time_of_tick(1U << 24));
  CHECK(pm.timer() == 0);
}

TEST_CASE("Pm: stores to the timer are reported and change nothing", "[pm][timer]") {
  BqlGuard guard;
  Pm pm;
  pm.pass(1s);
  pm.pm->timer_handler().io_write(0, 0, 4);
  CHECK(pm.timer() == 3'579'545);
  CHECK(pm.pm->guest_errors() == 1);
}

TEST_CASE("Pm: TMR_STS is set whenever the top bit changes", "[pm][timer][sweep]") {
  BqlGuard guard;
  for (const PmTimerWidth width : {PmTimerWidth::k24Bits, PmTimerWidth::k32Bits}) {
    Pm pm(width);
    const Nanoseconds half =
        AcpiPmTimer::time_of_tick(uint64_t{1} << (static_cast<int>(width) - 1));
    for (int i = 1; i <= 3; ++i) {
      pm.clock.set(
          AcpiPmTimer::time_of_tick(static_cast<uint64_t>(i) << (static_cast<int>(width) - 1)) -
          1ns);
      CHECK(pm.in(kSts) == 0);
      pm.pass(1ns);
      CHECK(pm.in(kSts) == 1);
      pm.out(kSts, 1);
      CHECK(pm.in(kSts) == 0);
    }
    CHECK(half > 2s);
  }
}

TEST_CASE("Pm: TMR_EN raises the SCI at the carry, without anybody looking", "[pm][timer]") {
  BqlGuard guard;
  Pm pm(PmTimerWidth::k24Bits);
  const Nanoseconds half = AcpiPmTimer::time_of_tick(1U << 23);
  CHECK(pm.timers.next_deadline() == Nanoseconds::max());  // nobody asked: no timer
  pm.out(kEn, 0x0001);
  CHECK(pm.timers.next_deadline() == half);
  pm.pass(half - 1ns);
  CHECK_FALSE(pm.sci());
  pm.pass(1ns);
  CHECK(pm.sci());
  pm.out(kSts, 0x0001);
  CHECK_FALSE(pm.sci());
  CHECK(pm.timers.next_deadline() == AcpiPmTimer::time_of_tick(2U << 23));
}

TEST_CASE("Pm: a thread that holds the BQL does not stop reads of the timer", "[pm][lock-free]") {
  BqlGuard guard;  // held by this thread throughout
  Pm pm;
  const uint64_t before = bql.acquisitions();
  std::atomic<uint64_t> value = 0;
  auto reader = MUST(Thread::start("reader", [&] {
    pm.clock.advance(1s);
    value = pm.timer();
  }));
  test::Watchdog watchdog("a read of the PM timer", 30s);
  reader.join();  // would never come if the read needed the BQL
  CHECK(value == 3'579'545);
  CHECK(bql.acquisitions() == before);
}

TEST_CASE("Pm: an unrealized block lets go of its wires and powers nothing off", "[pm]") {
  BqlGuard guard;
  Pm pm;
  {
    test::FakeIrq irq;
    unsigned offs = 0;
    auto other = std::make_shared<AcpiPm>("pm2", irq.line(kSci), pm.timers, PmTimerWidth::k32Bits,
                                          [&] { ++offs; });
    MUST(other->realize());
    other->events_handler().io_write(kEn, 0x0100, 2);
    other->power_button();
    REQUIRE(irq.level(kSci));
    other->unrealize();
    CHECK_FALSE(irq.level(kSci));
    other->events_handler().io_write(kCnt, 0x2000, 2);
    CHECK(offs == 0);
    CHECK_FALSE(irq.level(kSci));
  }
}

// --- Migration --------------------------------------------------------------------------------

TEST_CASE("Pm: the timer goes on where it was, whether the other clock is behind or ahead",
          "[pm][saved]") {
  BqlGuard guard;
  for (const Nanoseconds other : {Nanoseconds(0), Nanoseconds(1h)}) {
    Pm a, b;
    a.clock.set(10min);
    b.clock.set(other);
    const uint64_t before = a.timer();
    REQUIRE(test::hand_over(*a.pm, *b.pm).has_value());
    CHECK(b.timer() == before);
    b.clock.advance(1s);
    const uint64_t passed = b.timer() - before;
    CHECK(passed >= 3'579'545 - 1);
    CHECK(passed <= 3'579'545 + 1);
  }
}

TEST_CASE("Pm: the timer's next carry interrupts when it would have", "[pm][saved]") {
  BqlGuard guard;
  Pm a(PmTimerWidth::k24Bits), b(PmTimerWidth::k24Bits);
  // The top of 24 bits changes every 2^23 ticks: 2.343 s.
  a.pass(2s);
  a.out(kEn, 1);
  b.clock.set(7h);
  REQUIRE(test::hand_over(*a.pm, *b.pm).has_value());
  CHECK_FALSE(b.sci());
  b.pass(343ms);
  CHECK_FALSE(b.sci());
  b.pass(1ms);
  CHECK(b.sci());
  CHECK(b.in(kSts) == 1);
}

TEST_CASE("Pm: pending events raise the SCI after a load, and the listener hears nothing",
          "[pm][saved]") {
  BqlGuard guard;
  Pm a, b;
  unsigned listens = 0;
  b.pm->set_gpe_listener(1, [&listens] { ++listens; });
  a.gpe_out(kGpeEn, 1 << 1);
  a.pm->raise_gpe(1);
  a.out(kEn, 1 << 8);
  a.out(kCnt, 5 << 10);
  REQUIRE(test::hand_over(*a.pm, *b.pm).has_value());
  CHECK(b.sci());
  CHECK(b.gpe_in(kGpeSts) == 1 << 1);
  CHECK(b.gpe_in(kGpeEn) == 1 << 1);
  CHECK(b.in(kCnt) == (5 << 10 | 1));
  CHECK(listens == 0);
  b.gpe_out(kGpeSts, 1 << 1);
  CHECK_FALSE(b.sci());
  b.pm->power_button();
  CHECK(b.sci());
  CHECK(b.power_offs == 0);
}

TEST_CASE("Pm: a state that the registers can not have is refused", "[pm][saved][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* field;
    void (*spoil)(AcpiPmState&);
  };
  Pm pm;
  for (const Row& row : {
           Row{"status", [](auto& s) { s.status = 1 << 1; }},
           Row{"enable", [](auto& s) { s.enable = 1 << 4; }},
           Row{"control", [](auto& s) { s.control = 1 << 13; }},
           Row{"timer_ticks", [](auto& s) { s.timer_ticks = uint64_t{1} << 63; }},
       }) {
    auto state = test::state_of<AcpiPmState>(*pm.pm);
    CHECK(test::refusal(*pm.pm, state).empty());
    row.spoil(state);
    CAPTURE(row.field);
    CHECK(test::refusal(*pm.pm, state).starts_with("pm: field '" + std::string(row.field) + "'"));
  }
}
