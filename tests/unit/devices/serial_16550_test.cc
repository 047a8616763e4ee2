#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/devices/serial_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using namespace std::chrono_literals;

// --- Registers --------------------------------------------------------------------------------

TEST_CASE("Uart: every register has its reset value and its writable bits", "[serial][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    UartReg reg;
    bool divisor_latch;
    uint8_t reset_value;
    uint8_t writable;  // bits that read back as stored
  };
  const std::vector<Row> rows{
      {"RBR", UartReg::kData, false, 0x00, 0x00},
      {"IER", UartReg::kInterruptEnable, false, 0x00, 0x0f},
      {"IIR", UartReg::kInterruptId, false, 0x01, 0x00},
      {"LCR", UartReg::kLineControl, false, 0x00, 0xff},
      {"MCR", UartReg::kModemControl, false, 0x00, 0x1f},
      {"LSR", UartReg::kLineStatus, false, 0x60, 0x00},
      {"MSR", UartReg::kModemStatus, false, 0xb0, 0x00},
      {"SCR", UartReg::kScratch, false, 0x00, 0xff},
      {"DLL", UartReg::kData, true, 0x01, 0xff},
      {"DLM", UartReg::kInterruptEnable, true, 0x00, 0xff},
  };
  for (const Row& row : rows) {
    for (const unsigned value : {0xffU, 0xaaU, 0x55U, 0x00U}) {
      // Registers that share an offset with an action (THR, FCR) have no bits to read back.
      Port port;
      port.uart->reset();
      CAPTURE(row.name, value);
      if (row.divisor_latch) port.out(UartReg::kLineControl, kDlab);
      CHECK(port.in(row.reg) == row.reset_value);
      if (row.writable == 0) continue;
      port.out(row.reg, value);
      CHECK(port.in(row.reg) == (value & row.writable));
    }
  }
}

TEST_CASE("Uart: stores to the status registers change nothing", "[serial][sweep]") {
  BqlGuard guard;
  Port port;
  for (const unsigned value : {0x00U, 0xffU}) {
    port.out(UartReg::kLineStatus, value);
    port.out(UartReg::kModemStatus, value);
    CHECK(port.lsr() == 0x60);
    CHECK(port.in(UartReg::kModemStatus) == 0xb0);
  }
}

TEST_CASE("Uart: reset keeps the divisor and the scratch register", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kScratch, 0x5a);
  port.out(UartReg::kInterruptEnable, 0x0f);
  port.uart->reset();
  CHECK(port.in(UartReg::kScratch) == 0x5a);
  CHECK(port.in(UartReg::kInterruptEnable) == 0);
  port.out(UartReg::kLineControl, kDlab);
  CHECK(port.in(UartReg::kData) == 1);
}

TEST_CASE("Uart: the FIFO bits of IIR say whether the FIFOs are on", "[serial]") {
  BqlGuard guard;
  Port port;
  CHECK(port.in(UartReg::kInterruptId) == 0x01);
  port.use_fifo();
  CHECK(port.in(UartReg::kInterruptId) == 0xc1);
  port.out(UartReg::kInterruptId, 0xc0);  // no enable bit: the trigger level is not programmed
  CHECK(port.in(UartReg::kInterruptId) == 0x01);
}

// --- Reception --------------------------------------------------------------------------------

TEST_CASE("Uart: without FIFO one character is taken at a time", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kInterruptEnable, 0x01);
  CHECK(port.peer.type("ab") == 1);
  CHECK(port.raised());
  CHECK(port.iir() == 0x04);
  CHECK(port.peer.invitations() == 0);
  CHECK(port.in(UartReg::kData) == 'a');
  CHECK_FALSE(port.raised());
  CHECK(port.peer.invitations() == 1);
  CHECK(port.peer.type("b") == 1);
  CHECK(port.read_all() == "b");
  CHECK(port.in(UartReg::kData) == 0);  // nothing there
}

TEST_CASE("Uart: the receive interrupt comes at each trigger level and goes below it",
          "[serial][sweep]") {
  BqlGuard guard;
  struct Row {
    unsigned fcr_bits;
    size_t level;
  };
  for (const Row row : {Row{0x00, 1}, Row{0x40, 4}, Row{0x80, 8}, Row{0xc0, 14}}) {
    Port port;
    CAPTURE(row.level);
    port.use_fifo(row.fcr_bits);
    port.out(UartReg::kInterruptEnable, 0x01);
    for (size_t i = 1; i < row.level; ++i) port.peer.type("x");
    CHECK_FALSE(port.raised());
    port.peer.type("x");
    CHECK(port.raised());
    CHECK(port.iir() == 0x04);
    port.in(UartReg::kData);
    CHECK_FALSE(port.raised());
  }
}

TEST_CASE("Uart: characters below the trigger level raise the time-out after four characters' time",
          "[serial]") {
  BqlGuard guard;
  Port port;
  port.use_fifo(0xc0);
  port.out(UartReg::kInterruptEnable, 0x01);
  port.peer.type("abc");
  port.pass(kTimeout - 2us);
  CHECK_FALSE(port.raised());
  port.peer.type("d");  // starts the time again
  port.pass(kTimeout - 2us);
  CHECK_FALSE(port.raised());
  port.pass(2us);
  CHECK(port.raised());
  CHECK(port.iir() == 0x0c);
  CHECK(port.iir() == 0x0c);  // reading IIR does not acknowledge it, reading a character does
  CHECK(port.in(UartReg::kData) == 'a');
  CHECK_FALSE(port.raised());
  port.pass(kTimeout);
  CHECK(port.iir() == 0x0c);  // the rest waits again
  CHECK(port.read_all() == "bcd");
  port.pass(kTimeout * 2);
  CHECK_FALSE(port.raised());
}

TEST_CASE("Uart: the time-out follows the divisor and the character's length", "[serial][sweep]") {
  BqlGuard guard;
  struct Row {
    unsigned divisor, lcr, bits;
  };
  // 8N1, 5N1, 8E2, 7N1 at three speeds; a divisor of 0 counts as 1
  for (const Row row : {Row{1, 0x03, 10}, Row{12, 0x00, 7}, Row{96, 0x1f, 12}, Row{0, 0x02, 9}}) {
    Port port;
    CAPTURE(row.divisor, row.lcr);
    port.out(UartReg::kLineControl, kDlab);
    port.out(UartReg::kData, row.divisor);
    port.out(UartReg::kLineControl, row.lcr);
    port.use_fifo(0xc0);
    port.peer.type("x");
    const double seconds = 4.0 * row.bits * std::max(row.divisor, 1U) / 115'200;
    const double deadline = std::chrono::duration<double>(port.timers.next_deadline()).count();
    CHECK(deadline == Approx(seconds).epsilon(1e-4));
  }
}

TEST_CASE("Uart: the backend is told the FIFO's room and invited below the trigger level",
          "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo(0x80);  // 8
  CHECK(port.peer.type("0123456789abcdefgh") == 16);
  for (int i = 0; i < 8; ++i) port.in(UartReg::kData);
  CHECK(port.peer.invitations() == 0);
  port.in(UartReg::kData);
  CHECK(port.peer.invitations() == 1);
  CHECK(port.peer.type("gh") == 2);
  CHECK(port.read_all() == "9abcdefgh");
  CHECK(port.lsr() == 0x60);
}

TEST_CASE("Uart: clearing the receive FIFO invites a backend that was held", "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.peer.type("0123456789abcdefg");
  port.out(UartReg::kInterruptId, 0xc3);
  CHECK(port.lsr() == 0x60);
  CHECK(port.peer.invitations() == 1);
}

TEST_CASE("Uart: turning the FIFOs on or off empties them", "[serial]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.peer.type("abc");
  port.out(UartReg::kInterruptId, 0x00);
  CHECK(port.read_all().empty());
  port.peer.type("d");
  port.use_fifo();
  CHECK(port.read_all().empty());
}

TEST_CASE("Uart: an overrun keeps the FIFO, sets OE until LSR is read, and has first priority",
          "[serial]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.out(UartReg::kInterruptEnable, 0x07);
  port.peer.push("0123456789abcdefX");  // a backend that did not ask
  CHECK(port.iir() == 0x06);
  CHECK(port.lsr() == (0x60 | 0x02 | 0x01));
  CHECK(port.iir() == 0x04);
  CHECK(port.read_all() == "0123456789abcdef");
}

TEST_CASE("Uart: without FIFO an overrun keeps the newest character", "[serial]") {
  BqlGuard guard;
  Port port;
  port.peer.push("ab");
  CHECK(port.lsr() == (0x60 | 0x02 | 0x01));
  CHECK(port.in(UartReg::kData) == 'b');
}

TEST_CASE("Uart: a break is a zero character whose errors show when it is next to be read",
          "[serial]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.out(UartReg::kInterruptEnable, 0x04);
  port.peer.type("a");
  port.peer.event(CharEvent::kBreak);
  port.peer.type("b");
  CHECK_FALSE(port.raised());
  CHECK(port.lsr() == (0x80 | 0x60 | 0x01));  // somewhere in the FIFO
  CHECK(port.in(UartReg::kData) == 'a');
  CHECK(port.raised());
  CHECK(port.iir() == 0x06);
  CHECK(port.lsr() == (0x80 | 0x60 | 0x10 | 0x08 | 0x01));
  CHECK_FALSE(port.raised());
  CHECK(port.lsr() == (0x60 | 0x01));
  CHECK(port.in(UartReg::kData) == 0);
  CHECK(port.in(UartReg::kData) == 'b');
}

TEST_CASE("Uart: a peer that comes or goes changes no modem line", "[serial]") {
  BqlGuard guard;
  Port port;
  port.peer.event(CharEvent::kClosed);
  port.peer.event(CharEvent::kOpened);
  CHECK(port.in(UartReg::kModemStatus) == 0xb0);
}

// --- Interrupt line ---------------------------------------------------------------------------

TEST_CASE("Uart: interrupts are shown by priority", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kModemControl, kLoop | kOut2);  // DCD follows OUT2, CTS and DSR fall
  port.out(UartReg::kModemControl, kOut2);
  port.out(UartReg::kInterruptEnable, 0x0f);
  port.peer.push("ab");
  CHECK(port.iir() == 0x06);
  port.lsr();
  CHECK(port.iir() == 0x04);
  port.in(UartReg::kData);
  CHECK(port.iir() == 0x02);
  CHECK(port.iir() == 0x00);
  CHECK(port.raised());
  port.in(UartReg::kModemStatus);
  CHECK(port.iir() == 0x01);
  CHECK_FALSE(port.raised());
}

TEST_CASE("Uart: a source that is not enabled does not show", "[serial][sweep]") {
  BqlGuard guard;
  for (unsigned ier = 0; ier < 16; ++ier) {
    Port port;
    CAPTURE(ier);
    port.out(UartReg::kModemControl, kLoop | kOut2);
    port.out(UartReg::kModemControl, kOut2);
    port.out(UartReg::kInterruptEnable, ier);
    port.peer.push("ab");
    const unsigned expected = (ier & 4) != 0   ? 0x06
                              : (ier & 1) != 0 ? 0x04
                              : (ier & 2) != 0 ? 0x02
                              : (ier & 8) != 0 ? 0x00
                                               : 0x01;
    CHECK(port.raised() == (ier != 0));
    CHECK(port.iir() == expected);
  }
}

TEST_CASE("Uart: OUT2 gates the interrupt line and nothing else", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kModemControl, 0);
  port.out(UartReg::kInterruptEnable, 0x01);
  port.peer.type("a");
  CHECK_FALSE(port.raised());
  CHECK(port.iir() == 0x04);
  port.out(UartReg::kModemControl, kOut2);
  CHECK(port.raised());
  port.out(UartReg::kModemControl, 0);
  CHECK_FALSE(port.raised());
}
