// A serial port's state on its way to another machine.
#include <catch2/catch.hpp>

#include "tests/unit/devices/saved_device_fixture.h"
#include "tests/unit/devices/serial_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using namespace std::chrono_literals;

TEST_CASE("Uart: what is received, sent and set goes on after a load", "[serial][saved]") {
  BqlGuard guard;
  Port a, b;
  a.use_fifo();
  a.out(UartReg::kScratch, 0x5a);
  a.out(UartReg::kInterruptEnable, 0x01);
  a.peer.type("in");
  a.peer.set_room(0);
  a.send("out");
  b.clock.advance(1h);
  REQUIRE(hand_over(*a.uart, *b.uart).has_value());

  CHECK(b.in(UartReg::kScratch) == 0x5a);
  CHECK(b.in(UartReg::kInterruptEnable) == 0x01);
  CHECK(b.in(UartReg::kInterruptId) == 0xc1);
  CHECK(b.peer.sent().empty());  // not before the machine runs
  b.uart->resume_loaded();
  CHECK(b.peer.take_sent() == "out");
  CHECK((b.lsr() & 0x60) == 0x60);
  CHECK(b.read_all() == "in");
}

TEST_CASE("Uart: a pending interrupt is raised again by a load, and one that is not is lowered",
          "[serial][saved]") {
  BqlGuard guard;
  Port a, b;
  a.out(UartReg::kInterruptEnable, 0x01);
  a.peer.type("x");
  REQUIRE(hand_over(*a.uart, *b.uart).has_value());
  CHECK(b.raised());
  CHECK(b.iir() == 0x04);
  Port quiet;
  REQUIRE(hand_over(*quiet.uart, *b.uart).has_value());
  CHECK_FALSE(b.raised());
}

TEST_CASE("Uart: the receive time-out comes when it would have come", "[serial][saved]") {
  BqlGuard guard;
  Port a, b;
  a.use_fifo();
  a.out(UartReg::kInterruptEnable, 0x01);
  a.peer.type("x");
  a.pass(kTimeout - 1us);
  b.clock.advance(1h);
  REQUIRE(hand_over(*a.uart, *b.uart).has_value());
  CHECK_FALSE(b.raised());
  b.pass(2us);
  CHECK(b.iir() == 0x0c);
}

TEST_CASE("Uart: a break that waits in the FIFO is still one after a load", "[serial][saved]") {
  BqlGuard guard;
  Port a, b;
  a.use_fifo();
  a.peer.type("x");
  a.peer.event(CharEvent::kBreak);
  REQUIRE(hand_over(*a.uart, *b.uart).has_value());
  CHECK((b.lsr() & 0x98) == 0x80);
  CHECK(b.in(UartReg::kData) == 'x');
  CHECK((b.lsr() & 0x18) == 0x18);
}

TEST_CASE("Uart: a full FIFO invites input once the guest has read after a load",
          "[serial][saved]") {
  BqlGuard guard;
  Port a, b;
  a.use_fifo();
  CHECK(a.peer.type("0123456789abcdefX") == 16);
  REQUIRE(hand_over(*a.uart, *b.uart).has_value());
  b.uart->resume_loaded();
  CHECK(b.peer.type("X") == 0);
  const unsigned before = b.peer.invitations();
  CHECK(b.read_all() == "0123456789abcdef");
  CHECK(b.peer.invitations() > before);
}

TEST_CASE("Uart: a state that the chip can not be in is refused", "[serial][saved][sweep]") {
  BqlGuard guard;
  Port port;
  struct Row {
    const char* field;
    void (*spoil)(Serial16550State&);
  };
  for (const Row& row : {
           Row{"interrupt_enable", [](auto& s) { s.interrupt_enable = 0x10; }},
           Row{"fifo_control", [](auto& s) { s.fifo_control = 0x03; }},
           Row{"fifo_control", [](auto& s) { s.fifo_control = 0xc0; }},
           Row{"modem_control", [](auto& s) { s.modem_control = 0x20; }},
           Row{"line_errors", [](auto& s) { s.line_errors = 0x01; }},
           Row{"received", [](auto& s) { s.received.resize(2); }},
           Row{"received.errors", [](auto& s) { s.received = {{1, 0x20}}; }},
           Row{"to_send", [](auto& s) { s.to_send.resize(2); }},
           Row{"timeout_left_ns", [](auto& s) { s.timeout_left_ns = 1; }},
           Row{"timeout_left_ns",
               [](auto& s) {
                 s.timeout_armed = true;
                 s.timeout_left_ns = uint64_t{1} << 63;
               }},
       }) {
    auto state = state_of<Serial16550State>(*port.uart);
    CHECK(refusal(*port.uart, state).empty());
    row.spoil(state);
    CAPTURE(row.field);
    CHECK(
        refusal(*port.uart, state).starts_with("serial0: field '" + std::string(row.field) + "'"));
  }
}

TEST_CASE("Device: a state of another kind or version is refused, naming both", "[serial][saved]") {
  BqlGuard guard;
  Port port;
  const std::vector<uint8_t> bytes = port.uart->save();
  CHECK(port.uart->load("serial-16550", 2, bytes).error().message() ==
        "serial0: the state is of 'serial-16550' version 2, expected 'serial-16550' version 1");
  CHECK(port.uart->load("rtc", 1, bytes).error().message() ==
        "serial0: the state is of 'rtc' version 1, expected 'serial-16550' version 1");
  CHECK(port.uart->load("serial-16550", 1, {}).error().message() ==
        "serial0: field 'interrupt_enable': missing");
}
