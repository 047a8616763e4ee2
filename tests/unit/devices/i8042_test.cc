#include "devices/i8042.h"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "devices/debug_console.h"
#include "devices/port92.h"
#include "devices/reset_port_cf9.h"
#include "tests/support/fake_chardev.h"
#include "tests/support/fake_irq.h"
#include "tests/unit/devices/saved_device_fixture.h"

using namespace rhea;
using namespace rhea::devices;

namespace {

struct Controller {
  Controller() REQUIRES(bql) { MUST(i8042->realize()); }
  ~Controller() {
    bql.assert_held();
    i8042->unrealize();
  }
  uint8_t status() { return static_cast<uint8_t>(i8042->command_handler().io_read(0, 1)); }
  uint8_t data() { return static_cast<uint8_t>(i8042->data_handler().io_read(0, 1)); }
  void command(unsigned value) { i8042->command_handler().io_write(0, value, 1); }
  void write(unsigned value) { i8042->data_handler().io_write(0, value, 1); }
  /// Everything that the controller has to say.
  std::vector<unsigned> drain() {
    std::vector<unsigned> bytes;
    while ((status() & 1) != 0) bytes.push_back(data());
    return bytes;
  }
  unsigned command_byte() {
    command(0x20);
    return data();
  }

  unsigned resets = 0;
  test::FakeIrq irq;
  std::shared_ptr<I8042> i8042 =
      std::make_shared<I8042>("i8042", irq.line(1), irq.line(12), [this] { ++resets; });
};

using Bytes = std::vector<unsigned>;

}  // namespace

TEST_CASE("I8042: after reset it looks as firmware leaves it", "[i8042]") {
  BqlGuard guard;
  Controller c;
  CHECK(c.status() == (0x10 | 0x04));
  CHECK(c.command_byte() == 0x65);
  CHECK(c.status() == (0x10 | 0x08 | 0x04));
  CHECK(c.data() == 0);
}

TEST_CASE("I8042: each command without argument has its answer", "[i8042][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    unsigned command;
    Bytes answer;
  };
  const std::vector<Row> rows{
      {"command byte", 0x20, {0x65}},
      {"no password", 0xa4, {0xf1}},
      {"aux interface", 0xa9, {0x00}},
      {"self-test", 0xaa, {0x55}},
      {"keyboard interface", 0xab, {0x00}},
      {"input port", 0xc0, {0x80}},
      {"output port", 0xd0, {0x03}},
      {"test inputs", 0xe0, {0x00}},
      {"disable aux", 0xa7, {}},
      {"enable aux", 0xa8, {}},
      {"disable keyboard", 0xad, {}},
      {"enable keyboard", 0xae, {}},
  };
  for (const Row& row : rows) {
    Controller c;
    CAPTURE(row.name);
    c.command(row.command);
    CHECK(c.drain() == row.answer);
    CHECK(c.i8042->guest_errors() == 0);
    CHECK(c.irq.take_edges(1) == 0);  // its own answers raise nothing
  }
}

TEST_CASE("I8042: unknown commands are reported and ignored", "[i8042][sweep]") {
  BqlGuard guard;
  for (unsigned command = 0; command < 0xf0; ++command) {
    static const Bytes known{0x20, 0x60, 0xa4, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xad,
                             0xae, 0xc0, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xe0};
    if (std::ranges::find(known, command) != known.end()) continue;
    Controller c;
    CAPTURE(command);
    c.command(command);
    CHECK(c.i8042->guest_errors() == 1);
    CHECK(c.drain().empty());
  }
}

TEST_CASE("I8042: the command byte is what was written, and the port commands change it",
          "[i8042]") {
  BqlGuard guard;
  Controller c;
  for (const unsigned value : {0x00U, 0x74U, 0xffU, 0x03U}) {
    c.command(0x60);
    c.write(value);
    CHECK(c.command_byte() == value);
  }
  c.command(0xad);
  c.command(0xa7);
  CHECK(c.command_byte() == 0x33);
  c.command(0xae);
  c.command(0xa8);
  CHECK(c.command_byte() == 0x03);
}

TEST_CASE("I8042: a command that comes instead of an argument drops the first", "[i8042]") {
  BqlGuard guard;
  Controller c;
  c.command(0x60);
  c.command(0xaa);
  CHECK(c.drain() == Bytes{0x55});
  c.write(0xee);  // goes to the keyboard, not into the command byte
  CHECK(c.drain() == Bytes{0xee});
  CHECK(c.command_byte() == 0x65);
}

TEST_CASE("I8042: the keyboard answers each of its commands", "[i8042][keyboard][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    Bytes sent;
    Bytes answer;
  };
  const std::vector<Row> rows{
      {"reset", {0xff}, {0xfa, 0xaa}},
      {"identify", {0xf2}, {0xfa, 0xab, 0x83}},
      {"echo", {0xee}, {0xee}},
      {"LEDs", {0xed, 0x07}, {0xfa, 0xfa}},
      {"typematic", {0xf3, 0x20}, {0xfa, 0xfa}},
      {"enable", {0xf4}, {0xfa}},
      {"disable", {0xf5}, {0xfa}},
      {"defaults", {0xf6}, {0xfa}},
      {"read scan code set", {0xf0, 0x00}, {0xfa, 0xfa, 0x02}},
      {"set scan code set", {0xf0, 0x03, 0xf0, 0x00}, {0xfa, 0xfa, 0xfa, 0xfa, 0x03}},
      {"no such scan code set", {0xf0, 0x04}, {0xfa, 0xfe}},
      {"resend", {0xee, 0xfe}, {0xee, 0xee}},
      {"set 3 key types", {0xf7, 0xf8, 0xf9, 0xfa}, {0xfa, 0xfa, 0xfa, 0xfa}},
      {"unknown", {0x01}, {0xfe}},
      {"a command in place of an argument", {0xed, 0xf2}, {0xfa, 0xfa, 0xab, 0x83}},
  };
  for (const Row& row : rows) {
    Controller c;
    CAPTURE(row.name);
    c.command(0x60);
    c.write(0x01);  // no translation
    Bytes answer;
    for (const unsigned byte : row.sent) {
      c.write(byte);
      for (const unsigned b : c.drain()) answer.push_back(b);
    }
    CHECK(answer == row.answer);
  }
}

TEST_CASE("I8042: translation changes the keyboard's bytes", "[i8042][keyboard]") {
  BqlGuard guard;
  Controller c;
  c.write(0xf2);
  CHECK(c.drain() == Bytes{0xfa, 0xab, 0x41});
}

TEST_CASE("I8042: each keyboard byte is an edge on IRQ 1, if it is enabled", "[i8042]") {
  BqlGuard guard;
  Controller c;
  c.write(0xf2);
  CHECK(c.irq.level(1));
  CHECK(c.irq.take_edges(1) == 1);
  c.data();
  CHECK(c.irq.take_edges(1) == 1);
  c.data();
  CHECK(c.irq.take_edges(1) == 1);
  c.data();
  CHECK_FALSE(c.irq.level(1));
  c.command(0x60);
  c.write(0x00);
  c.write(0xee);
  CHECK(c.irq.take_edges(1) == 0);
  CHECK(c.drain() == Bytes{0xee});
}

TEST_CASE("I8042: a disabled keyboard keeps its bytes; sending to it turns it on", "[i8042]") {
  BqlGuard guard;
  Controller c;
  c.write(0xf2);
  CHECK(c.data() == 0xfa);
  c.command(0xad);
  CHECK(c.data() == 0xab);  // was in the buffer already
  CHECK((c.status() & 1) == 0);
  c.command(0xae);
  CHECK(c.drain() == Bytes{0x41});
  c.command(0xad);
  c.write(0xee);
  CHECK(c.drain() == Bytes{0xee});
  CHECK((c.command_byte() & 0x10) == 0);
}

TEST_CASE("I8042: the buffer commands loop bytes back as keyboard and as aux data",
          "[i8042][linux-probe]") {
  BqlGuard guard;
  Controller c;
  c.command(0x60);
  c.write(0x47);
  c.command(0xd3);
  c.write(0x5a);
  CHECK(c.status() == (0x10 | 0x04 | 0x20 | 0x01));
  CHECK(c.irq.take_edges(12) == 1);
  CHECK(c.irq.take_edges(1) == 0);
  CHECK(c.data() == 0x5a);
  CHECK_FALSE(c.irq.level(12));
  c.command(0xd2);
  c.write(0xa5);
  CHECK(c.status() == (0x10 | 0x04 | 0x01));
  CHECK(c.irq.take_edges(1) == 1);
  CHECK(c.data() == 0xa5);
}

TEST_CASE("I8042: the empty second port answers at once, with a time-out", "[i8042][linux-probe]") {
  BqlGuard guard;
  Controller c;
  c.command(0xd4);
  c.write(0xf2);
  CHECK((c.status() & 0x61) == 0x61);
  CHECK(c.data() == 0xfe);
}

TEST_CASE("I8042: a guest that never reads costs nothing but its answers", "[i8042]") {
  BqlGuard guard;
  Controller c;
  for (int i = 0; i < 1000; ++i) {
    c.command(0xaa);
    c.write(0xf2);
  }
  CHECK(c.drain().size() <= 1 + 16 + 16);
}

TEST_CASE("I8042: pulsing bit 0 low asks for a reset, and so does the output port",
          "[i8042][reset][sweep]") {
  BqlGuard guard;
  for (unsigned command = 0xf0; command <= 0xff; ++command) {
    Controller c;
    c.command(command);
    CAPTURE(command);
    CHECK(c.resets == (command % 2 == 0 ? 1U : 0U));
  }
  Controller c;
  c.command(0xd1);
  c.write(0x03);
  CHECK(c.resets == 0);
  c.command(0xd1);
  c.write(0x02);
  CHECK(c.resets == 1);
}

TEST_CASE("I8042: A20 is remembered", "[i8042]") {
  BqlGuard guard;
  Controller c;
  c.command(0xd1);
  c.write(0x01);
  c.command(0xd0);
  CHECK(c.drain() == Bytes{0x01});
}

// --- The one-byte ports -----------------------------------------------------------------------

TEST_CASE("Port92: bit 0 resets when it rises, bit 1 is remembered", "[reset]") {
  BqlGuard guard;
  unsigned resets = 0;
  auto port = std::make_shared<Port92>("port92", [&] { ++resets; });
  MUST(port->realize());
  CHECK(port->io_read(0, 1) == 0x02);
  port->io_write(0, 0xfe, 1);
  CHECK(port->io_read(0, 1) == 0x02);
  CHECK(resets == 0);
  port->io_write(0, 0x01, 1);
  CHECK(resets == 1);
  port->io_write(0, 0x03, 1);  // it was up
  CHECK(resets == 1);
  port->reset();
  port->io_write(0, 0x01, 1);
  CHECK(resets == 2);
  port->unrealize();
}

TEST_CASE("ResetPortCf9: bit 2 resets when it rises, with or without bit 1", "[reset][sweep]") {
  BqlGuard guard;
  struct Row {
    unsigned first, second, resets;
  };
  // Linux writes 0x02 and then 0x06 (or 0x0e); a bare 0x04 is a soft reset
  for (const Row row : {Row{0x02, 0x06, 1}, Row{0x02, 0x0e, 1}, Row{0x00, 0x04, 1},
                        Row{0x06, 0x06, 1}, Row{0x02, 0x0a, 0}, Row{0x00, 0xf9, 0}}) {
    unsigned resets = 0;
    auto port = std::make_shared<ResetPortCf9>("cf9", [&] { ++resets; });
    MUST(port->realize());
    port->io_write(0, row.first, 1);
    port->io_write(0, row.second, 1);
    CAPTURE(row.first, row.second);
    CHECK(resets == row.resets);
    CHECK(port->io_read(0, 1) == (row.second & 0x06));
    port->unrealize();
  }
}

TEST_CASE("DebugConsole: prints what is written and reads 0xe9", "[debugcon]") {
  BqlGuard guard;
  test::FakeChardev peer;
  auto console = std::make_shared<DebugConsole>("debugcon");
  console->set_backend(&peer);
  MUST(console->realize());
  CHECK(console->io_read(0, 1) == 0xe9);
  for (const char c : {'a', 'b'}) console->io_write(0, static_cast<uint8_t>(c), 1);
  peer.set_room(0);
  for (const char c : {'c', 'd'}) console->io_write(0, static_cast<uint8_t>(c), 1);
  CHECK(peer.sent() == "ab");
  peer.make_room(1);
  console->io_write(0, 'e', 1);
  CHECK(peer.sent() == "abc");
  peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(peer.sent() == "abcde");
  console->unrealize();
  CHECK(peer.frontend() == nullptr);
}

TEST_CASE("DebugConsole: keeps a limited amount for a peer that does not read", "[debugcon]") {
  BqlGuard guard;
  test::FakeChardev peer;
  auto console = std::make_shared<DebugConsole>("debugcon");
  console->set_backend(&peer);
  MUST(console->realize());
  peer.set_room(0);
  for (size_t i = 0; i < DebugConsole::kMaxPendingBytes + 3; ++i) console->io_write(0, 'x', 1);
  CHECK(console->guest_errors() == 3);
  peer.make_room(test::FakeChardev::kUnlimited);
  CHECK(peer.sent().size() == DebugConsole::kMaxPendingBytes);
  console->unrealize();
}

// --- Migration --------------------------------------------------------------------------------

TEST_CASE("I8042: what is said and asked goes on after a load", "[i8042][saved]") {
  BqlGuard guard;
  Controller a, b;
  a.command(0x60);
  a.write(0x65);
  a.write(0xff);    // the keyboard resets: two answers, one of them in the buffer
  a.command(0xaa);  // the controller's own answer waits behind it
  a.command(0x60);  // and it waits for a new command byte
  REQUIRE(test::hand_over(*a.i8042, *b.i8042).has_value());
  CHECK(b.irq.level(1));
  CHECK(b.status() == a.status());
  b.write(0x24);
  CHECK(b.drain() == Bytes{0xfa, 0x55, 0xaa});
  CHECK(b.command_byte() == 0x24);
}

TEST_CASE("I8042: a keyboard's argument may come after a load", "[i8042][saved]") {
  BqlGuard guard;
  Controller a, b;
  a.write(0xf0);
  REQUIRE(a.drain() == Bytes{0xfa});
  REQUIRE(test::hand_over(*a.i8042, *b.i8042).has_value());
  b.write(3);
  CHECK(b.drain() == Bytes{0xfa});
  b.write(0xf0);
  b.write(0);
  CHECK(b.drain() == Bytes{0xfa, 0xfa, 0x3f});  // set 3, translated
}

TEST_CASE("I8042: a state that it can not be in is refused", "[i8042][saved][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* field;
    void (*spoil)(I8042State&);
  };
  Controller c;
  for (const Row& row : {
           Row{"output_latch", [](auto& s) { s.output_latch = 4; }},
           Row{"waiting", [](auto& s) { s.waiting = 0xaa; }},
           Row{"buffer", [](auto& s) { s.buffer = {{.source = 3}}; }},
           Row{"buffer", [](auto& s) { s.buffer = {{.status = 1}}; }},
           Row{"replies", [](auto& s) { s.replies = {{.source = 3}}; }},
           Row{"keyboard.waiting", [](auto& s) { s.keyboard.waiting = 0xff; }},
           Row{"keyboard.scancode_set", [](auto& s) { s.keyboard.scancode_set = 0; }},
           Row{"keyboard.scancode_set", [](auto& s) { s.keyboard.scancode_set = 4; }},
       }) {
    auto state = test::state_of<I8042State>(*c.i8042);
    CHECK(test::refusal(*c.i8042, state).empty());
    row.spoil(state);
    CAPTURE(row.field);
    CHECK(test::refusal(*c.i8042, state)
              .starts_with("i8042: field '" + std::string(row.field) + "'"));
  }
}

TEST_CASE("Port92, cf9: the value goes on after a load, and no load resets", "[i8042][saved]") {
  BqlGuard guard;
  unsigned resets = 0;
  const auto count = [&resets] { ++resets; };
  const auto a = std::make_shared<Port92>("port92", count);
  const auto b = std::make_shared<Port92>("port92", count);
  const auto c = std::make_shared<ResetPortCf9>("cf9", count);
  const auto d = std::make_shared<ResetPortCf9>("cf9", count);
  a->io_write(0, 0x01, 1);
  c->io_write(0, 0x06, 1);
  REQUIRE(resets == 2);
  REQUIRE(test::hand_over(*a, *b).has_value());
  REQUIRE(test::hand_over(*c, *d).has_value());
  CHECK(b->io_read(0, 1) == 0x01);
  CHECK(d->io_read(0, 1) == 0x06);
  b->io_write(0, 0x01, 1);  // high already
  CHECK(resets == 2);
  CHECK(test::refusal(*b, Port92State{.value = 4}) ==
        "port92: field 'value': 0x4, has no bits but 0x3");
  CHECK(test::refusal(*d, ResetPortCf9State{.value = 1}) ==
        "cf9: field 'value': 0x1, has no bits but 0x6");
}

TEST_CASE("DebugConsole: what the peer has not taken is printed on the other side",
          "[i8042][saved]") {
  BqlGuard guard;
  test::FakeChardev peer_a, peer_b;
  const auto a = std::make_shared<DebugConsole>("debugcon");
  const auto b = std::make_shared<DebugConsole>("debugcon");
  a->set_backend(&peer_a);
  b->set_backend(&peer_b);
  MUST(a->realize());
  MUST(b->realize());
  peer_a.set_room(1);
  for (const char c : {'a', 'b', 'c'}) a->io_write(0, static_cast<uint8_t>(c), 1);
  REQUIRE(test::hand_over(*a, *b).has_value());
  CHECK(peer_b.sent().empty());
  b->resume_loaded();
  CHECK(peer_b.sent() == "bc");
  a->unrealize();
  b->unrealize();
}
