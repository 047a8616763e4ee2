// What the tests of the serial port share: a port with a peer, an interrupt line and a clock.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "devices/serial_16550.h"
#include "tests/support/fake_chardev.h"
#include "tests/support/fake_irq.h"
#include "tests/support/manual_clock.h"
#include "util/bql.h"

namespace rhea::test {

using devices::Serial16550;
using devices::UartReg;

inline constexpr unsigned kIrq = 4;
inline constexpr uint8_t kDlab = 0x80;
inline constexpr uint8_t kOut2 = 0x08;
inline constexpr uint8_t kLoop = 0x10;
inline constexpr uint8_t k8n1 = 0x03;
// 4 characters of 10 bits at 115200 baud
inline constexpr Nanoseconds kTimeout = Nanoseconds(4 * 10 * 1'000'000'000LL / 115'200);

/// A port at 115200 8N1 with a peer. OUT2 is set unless a test wants otherwise.
struct Port {
  Port() REQUIRES(bql) {
    uart->set_backend(&peer);
    MUST(uart->realize());
    out(UartReg::kLineControl, kDlab);
    out(UartReg::kData, 1);
    out(UartReg::kInterruptEnable, 0);
    out(UartReg::kLineControl, k8n1);
    out(UartReg::kModemControl, kOut2);
    irq.take_edges(kIrq);
  }
  ~Port() {
    bql.assert_held();
    uart->unrealize();
  }

  void out(UartReg reg, unsigned value) { uart->io_write(std::to_underlying(reg), value, 1); }
  uint8_t in(UartReg reg) {
    return static_cast<uint8_t>(uart->io_read(std::to_underlying(reg), 1));
  }
  void use_fifo(unsigned trigger_bits = 0xc0) { out(UartReg::kInterruptId, 0x01 | trigger_bits); }
  uint8_t iir() { return in(UartReg::kInterruptId) & 0x0f; }
  uint8_t lsr() { return in(UartReg::kLineStatus); }
  void send(std::string_view text) {
    for (const char c : text) out(UartReg::kData, static_cast<uint8_t>(c));
  }
  std::string read_all() {
    std::string text;
    while ((lsr() & 1) != 0) text.push_back(static_cast<char>(in(UartReg::kData)));
    return text;
  }
  void pass(Nanoseconds time) {
    clock.advance(time);
    timers.run_expired();
  }
  bool raised() const { return irq.level(kIrq); }

  ManualClock clock;
  TimerList timers{clock, [] {}};
  FakeIrq irq;
  FakeChardev peer;
  std::shared_ptr<Serial16550> uart =
      std::make_shared<Serial16550>("serial0", irq.line(kIrq), timers);
};

}  // namespace rhea::test
