#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/devices/serial_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

// --- Transmission -----------------------------------------------------------------------------

TEST_CASE("Uart: what is written to THR reaches the peer at once", "[serial]") {
  BqlGuard guard;
  Port port;
  port.send("hello");
  CHECK(port.peer.sent() == "hello");
  CHECK(port.lsr() == 0x60);
}

TEST_CASE("Uart: short words are cut to their length on both ways", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kLineControl, 0x02);  // 7 bits
  port.send("\xc1");
  port.peer.type("\xc2");
  CHECK(port.peer.sent() == "A");
  CHECK(port.read_all() == "B");
}

TEST_CASE("Uart: a peer that takes nothing fills shift register and THR, then THRE drops",
          "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.peer.set_room(0);
  port.send("a");
  CHECK(port.lsr() == 0x20);  // in the shift register: THR is free, the line is not idle
  port.send("b");
  CHECK(port.lsr() == 0x00);
  port.peer.make_room(1);
  CHECK(port.lsr() == 0x20);
  port.peer.make_room(1);
  CHECK(port.lsr() == 0x60);
  CHECK(port.peer.sent() == "ab");
}

TEST_CASE("Uart: a guest that respects THRE loses nothing to a slow peer", "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.peer.set_room(3);
  std::string wanted;
  for (int i = 0; i < 1000; ++i) {
    // the driver's habit: with THRE set there is room for a whole FIFO
    for (int turns = 0; (port.lsr() & 0x20) == 0; ++turns) {
      REQUIRE(turns < 100);
      port.peer.make_room(static_cast<size_t>(1 + i % 5));
    }
    const std::string chunk = std::to_string(i).append(12, '.').substr(0, 12);
    port.send(chunk);
    wanted += chunk;
  }
  port.peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(port.peer.sent() == wanted);
  CHECK(port.uart->guest_errors() == 0);
}

TEST_CASE("Uart: a byte pushed into a full transmit FIFO is dropped and reported",
          "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.peer.set_room(0);
  port.send("0123456789abcdefX");  // one in the shift register, sixteen in the FIFO
  CHECK(port.uart->guest_errors() == 0);
  port.send("Y");
  CHECK(port.uart->guest_errors() == 1);
  port.peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(port.peer.sent() == "0123456789abcdefX");
}

TEST_CASE(
    "Uart: clearing the transmit FIFO empties it for the guest and still sends what was in it",
    "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.peer.set_room(0);
  port.send("last words");
  REQUIRE((port.lsr() & 0x20) == 0);
  port.out(UartReg::kInterruptId, 0x05);
  CHECK(port.lsr() == 0x20);
  port.peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(port.peer.sent() == "last words");
}

TEST_CASE("Uart: output to no backend is taken and dropped", "[serial][flow]") {
  BqlGuard guard;
  test::ManualClock clock;
  TimerList timers(clock, [] {});
  auto uart = std::make_shared<Serial16550>("serial1", IrqLine(), timers);
  MUST(uart->realize());
  for (int i = 0; i < 100; ++i) uart->io_write(0, 'x', 1);
  CHECK(uart->io_read(5, 1) == 0x60);
  CHECK(uart->guest_errors() == 0);
  uart->unrealize();
}

TEST_CASE("Uart: the THRE interrupt comes with an empty THR and goes with reading IIR",
          "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kInterruptEnable, 0x02);
  CHECK(port.raised());
  CHECK(port.iir() == 0x02);
  CHECK_FALSE(port.raised());
  CHECK(port.iir() == 0x01);
  port.send("x");  // sent at once: empty again
  CHECK(port.raised());
  CHECK(port.irq.take_edges(kIrq) == 2);
}

TEST_CASE("Uart: enabling the THRE interrupt again raises it again", "[serial]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kInterruptEnable, 0x02);
  REQUIRE(port.iir() == 0x02);
  port.out(UartReg::kInterruptEnable, 0x02);  // not turned on: it was
  CHECK_FALSE(port.raised());
  port.out(UartReg::kInterruptEnable, 0x00);
  port.out(UartReg::kInterruptEnable, 0x02);
  CHECK(port.raised());
  CHECK(port.iir() == 0x02);
}

TEST_CASE("Uart: the THRE interrupt waits for a slow peer", "[serial][flow]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.out(UartReg::kInterruptEnable, 0x02);
  REQUIRE(port.iir() == 0x02);
  port.peer.set_room(0);
  port.send("abc");
  CHECK_FALSE(port.raised());
  port.out(UartReg::kInterruptEnable, 0x00);
  port.out(UartReg::kInterruptEnable, 0x02);
  CHECK_FALSE(port.raised());  // THR is not empty
  port.peer.make_room(1);
  CHECK_FALSE(port.raised());
  port.peer.make_room(1);  // the last byte moves to the shift register
  CHECK(port.raised());
  CHECK(port.iir() == 0x02);
}

// --- Loopback ---------------------------------------------------------------------------------

TEST_CASE("Uart: in loopback the transmitter feeds the receiver and the peer hears nothing",
          "[serial][loopback]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.out(UartReg::kModemControl, kLoop | kOut2);
  port.out(UartReg::kInterruptEnable, 0x01);
  port.send("ping");
  CHECK(port.peer.sent().empty());
  CHECK_FALSE(port.raised());  // the OUT2 pin is forced inactive
  CHECK(port.read_all() == "ping");
}

TEST_CASE("Uart: in loopback the peer waits, and what it sent arrives afterwards",
          "[serial][loopback]") {
  BqlGuard guard;
  Port port;
  port.out(UartReg::kModemControl, kLoop);
  CHECK(port.peer.type("a") == 0);
  port.out(UartReg::kModemControl, 0);
  CHECK(port.peer.invitations() == 1);
  CHECK(port.peer.type("a") == 1);
}

TEST_CASE("Uart: in loopback a seventeenth character overruns", "[serial][loopback]") {
  BqlGuard guard;
  Port port;
  port.use_fifo();
  port.out(UartReg::kModemControl, kLoop);
  port.send("0123456789abcdefX");
  CHECK((port.lsr() & 0x02) != 0);
  CHECK(port.read_all() == "0123456789abcdef");
}

TEST_CASE("Uart: output that waited for the peer goes out during loopback", "[serial][loopback]") {
  BqlGuard guard;
  Port port;
  port.peer.set_room(0);
  port.send("ab");
  port.out(UartReg::kModemControl, kLoop);
  port.peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(port.peer.sent() == "ab");
  CHECK((port.lsr() & 1) == 0);
}

TEST_CASE("Uart: in loopback each output feeds its input, with deltas", "[serial][loopback]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    unsigned mcr;
    unsigned input, delta_on, delta_off;
  };
  const std::vector<Row> rows{
      {"DTR to DSR", 0x01, 0x20, 0x02, 0x02},
      {"RTS to CTS", 0x02, 0x10, 0x01, 0x01},
      {"OUT1 to RI", 0x04, 0x40, 0x00, 0x04},  // TERI marks the end of ringing only
      {"OUT2 to DCD", 0x08, 0x80, 0x08, 0x08},
  };
  for (const Row& row : rows) {
    Port port;
    CAPTURE(row.name);
    port.out(UartReg::kModemControl, kLoop);
    port.in(UartReg::kModemStatus);
    port.out(UartReg::kModemControl, kLoop | row.mcr);
    CHECK(port.in(UartReg::kModemStatus) == (row.input | row.delta_on));
    CHECK(port.in(UartReg::kModemStatus) == row.input);
    port.out(UartReg::kModemControl, kLoop);
    CHECK(port.in(UartReg::kModemStatus) == row.delta_off);
  }
}

// --- Life -------------------------------------------------------------------------------------

TEST_CASE("Uart: an unrealized port lets go of its wires and still answers a late access",
          "[serial]") {
  BqlGuard guard;
  test::ManualClock clock;
  TimerList timers(clock, [] {});
  test::FakeIrq irq;
  test::FakeChardev peer;
  auto uart = std::make_shared<Serial16550>("serial0", irq.line(kIrq), timers);
  uart->set_backend(&peer);
  MUST(uart->realize());
  uart->io_write(4, kOut2, 1);
  uart->io_write(1, 0x02, 1);
  REQUIRE(irq.level(kIrq));
  uart->unrealize();
  CHECK_FALSE(irq.level(kIrq));
  CHECK(peer.frontend() == nullptr);
  uart->io_write(0, 'x', 1);
  CHECK(uart->io_read(5, 1) == 0x60);
  CHECK(peer.sent().empty());
  CHECK_FALSE(irq.level(kIrq));
}
