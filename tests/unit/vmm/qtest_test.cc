#include "vmm/qtest.h"

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/serial_16550.h"
#include "memory/ram_block.h"
#include "tests/support/fake_chardev.h"
#include "tests/support/manual_clock.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace std::chrono_literals;

namespace {

constexpr uint64_t kRamBytes = 1 << 20;

std::shared_ptr<memory::RamBlock> make_ram() {
  memory::RamBlockConfig config;
  config.name = "ram";
  config.size_bytes = kRamBytes;
  return MUST(memory::RamBlock::create(config));
}

/// A machine of RAM and a serial port, with a qtest client.
class Machine {
 public:
  Machine() REQUIRES(bql) {
    io_.emplace("io", io_root_);
    memory_.emplace("memory", memory_root_);
    memory_root_.add(ram_, 0);
    MUST(uart->realize());
    io_root_.add(uart->io(), 0x3f8);
    server.emplace(
        QtestServer::Machine{
            .memory = *memory_, .io = *io_, .clock = clock, .timers = timers, .irqs = irqs},
        client);
  }
  ~Machine() {
    bql.assert_held();
    server.reset();
    io_root_.remove(uart->io());
    memory_root_.remove(ram_);
    uart->unrealize();
    io_.reset();
    memory_.reset();
  }
  /// What the client reads after it sent `lines`.
  std::string talk(std::string_view lines) {
    client.push(lines);
    return client.take_sent();
  }

 private:
  RcuThread self_;
  memory::MemoryRegion io_root_{"io", 0x1'0000};
  memory::MemoryRegion memory_root_{"memory", UINT64_MAX};
  memory::MemoryRegion ram_{"ram", make_ram()};
  std::optional<memory::AddressSpace> io_;
  std::optional<memory::AddressSpace> memory_;
  test::ManualClock host_;

 public:
  VmClock clock{host_, VmClock::Mode::kStepped};
  TimerList timers{clock, [] {}};
  QtestIrqController irqs;
  std::shared_ptr<devices::Serial16550> uart =
      std::make_shared<devices::Serial16550>("serial0", devices::IrqLine(irqs, 4), timers);
  test::FakeChardev client;
  std::optional<QtestServer> server;
};

}  // namespace

TEST_CASE("Qtest: each command answers as QEMU's does", "[qtest][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* lines;
    const char* answers;
  };
  // Observed with qemu-system-x86_64 7.2.
  for (const Row row : std::vector<Row>{
           {"outb 0x80 0x1\n", "OK\n"},
           {"inb 0x3fd\n", "OK 0x0060\n"},
           {"inw 0x500\n", "OK 0xffff\n"},
           {"inl 0x500\n", "OK 0xffffffff\n"},
           {"outb 0x3ff 0x5a\ninb 0x3ff\n", "OK\nOK 0x005a\n"},
           {"writeq 0x1000 0x1122334455667788\nreadb 0x1000\nreadw 0x1000\n"
            "readl 0x1000\nreadq 0x1000\n",
            "OK\nOK 0x0000000000000088\nOK 0x0000000000007788\n"
            "OK 0x0000000055667788\nOK 0x1122334455667788\n"},
           {"writeb 0x1000 0xff\nwritew 0x1002 0xffff\nwritel 0x1004 0x1\nread 0x1000 8\n",
            "OK\nOK\nOK\nOK 0xff00ffff01000000\n"},
           {"write 0x1000 4 0xdeadbeef\nread 0x1000 0x4\n", "OK\nOK 0xdeadbeef\n"},
           {"memset 0x1000 4 0x5a\nwrite 0x1000 3 0x11\nread 0x1000 4\n",
            "OK\nOK\nOK 0x1100005a\n"},
           {"write 0x1000 1 0x1122\nread 0x1000 2\n", "OK\nOK 0x1100\n"},
           {"b64write 0x1000 4 AAECAw==\nread 0x1000 4\nb64read 0x1000 4\n",
            "OK\nOK 0x00010203\nOK AAECAw==\n"},
           {"b64write 0x1000 2 AAECAw==\nread 0x1000 4\n", "OK\nOK 0x00010000\n"},
           {"memset 0x1000 0 1\n", "OK\n"},
           {"readb 0xffffffff000\n", "OK 0x00000000000000ff\n"},
           {"endianness\n", "OK little\n"},
           {"bogus\n", "FAIL Unknown command 'bogus'\n"},
           {"module_load a b\n", "FAIL there are no modules to load\n"},
           {" \tinb  0x3fd \r\n", "OK 0x0060\n"},
       }) {
    Machine machine;
    CAPTURE(row.lines);
    CHECK(machine.talk(row.lines) == row.answers);
  }
}

TEST_CASE("Qtest: a malformed line gets an error and the next one works", "[qtest][sweep]") {
  BqlGuard guard;
  Machine machine;
  // QEMU aborts on most of these.
  for (const char* line : {"",
                           "   ",
                           "outb",
                           "outb 0x80",
                           "outb 0x80 1 2",
                           "outb zz 1",
                           "outb 0x80 zz",
                           "outb 0x80 0x100",
                           "outw 0x80 0x10000",
                           "outl 0x80 0x100000000",
                           "inb",
                           "inb zz",
                           "inb 0x10000",
                           "inb -1",
                           "inb 1 2",
                           "writeb 0x1000 256",
                           "writeq 0x1000",
                           "readq 0xfffffffffffffff9",
                           "read 0x1000",
                           "read 0x1000 0",
                           "read 0x1000 zz",
                           "read 0x1000 0x1000001",
                           "read 0xffffffffffffffff 2",
                           "read 0x1000 -1",
                           "write 0x1000 4",
                           "write 0x1000 4 nohex",
                           "write 0x1000 4 0x1",
                           "write 0x1000 4 0xzz",
                           "write 0x1000 0 0x",
                           "b64write 0x1000 4 !!!",
                           "b64write 0x1000 4 A",
                           "memset 0x1000 4",
                           "memset 0x1000 4 256",
                           "clock_step zz",
                           "clock_step 0xffffffffffffffff",
                           "clock_step 1 2",
                           "clock_set",
                           "clock_set 0xffffffffffffffff",
                           "irq_intercept_in",
                           "set_irq_in ioapic",
                           "set_irq_in ioapic unnamed-gpio-in 24 1",
                           "set_irq_in ioapic nope 0 1",
                           "endianness x",
                           "\x01\xff\xfe"}) {
    CAPTURE(line);
    const std::string answer = machine.talk(std::string(line) + "\n");
    CHECK((answer.starts_with("ERR ") || answer.starts_with("FAIL ")));
    CHECK(answer.find('\n') == answer.size() - 1);
    CHECK(machine.talk("endianness\n") == "OK little\n");
  }
}

TEST_CASE("Qtest: lines may come in any pieces", "[qtest]") {
  BqlGuard guard;
  Machine machine;
  CHECK(machine.talk("end").empty());
  CHECK(machine.talk("ianness\nendi") == "OK little\n");
  CHECK(machine.talk("anness\nendianness\n") == "OK little\nOK little\n");
  const std::string text = "inb 0x3fd\n";
  std::string answer;
  for (const char c : text) answer += machine.talk(std::string_view(&c, 1));
  CHECK(answer == "OK 0x0060\n");
}

TEST_CASE("Qtest: a line that is too long is refused once and skipped to its end", "[qtest]") {
  BqlGuard guard;
  Machine machine;
  const std::string piece(1 << 20, 'x');
  std::string answer;
  for (size_t sent = 0; sent <= 2 * QtestServer::kMaxLineBytes; sent += piece.size()) {
    answer += machine.talk(piece);
  }
  CHECK(answer == "ERR the line is too long\n");
  CHECK(machine.talk("tail\nendianness\n") == "OK little\n");
}

TEST_CASE("Qtest: the largest transfer fits into a line", "[qtest]") {
  BqlGuard guard;
  Machine machine;
  const std::string data(2 * QtestServer::kMaxTransferBytes, '7');
  CHECK(machine.talk("write 0 0x1000000 0x" + data + "\n") == "OK\n");
  CHECK(machine.talk("read 0xffffe 2\n") == "OK 0x7777\n");
}

TEST_CASE("Qtest: the clock moves by steps, and timers run on the way", "[qtest][clock]") {
  BqlGuard guard;
  Machine machine;
  std::vector<Nanoseconds> seen;
  Timer timer(machine.timers, [&] { seen.push_back(machine.clock.now()); });
  CHECK(machine.talk("clock_step\n") == "OK 0\n");  // no timer: nowhere to go
  CHECK(machine.talk("clock_step 1000\n") == "OK 1000\n");
  timer.arm_at(5000ns);
  CHECK(machine.talk("clock_step\n") == "OK 5000\n");
  CHECK(seen == std::vector<Nanoseconds>{5000ns});
  timer.arm_at(6000ns);
  CHECK(machine.talk("clock_set 10000\n") == "OK 10000\n");
  CHECK(seen == std::vector<Nanoseconds>{5000ns, 6000ns});
  CHECK(machine.talk("clock_set 5\n") == "OK 10000\n");  // past: nothing happens
}

TEST_CASE("Qtest: interrupts show before the answer to what caused them", "[qtest][irq]") {
  BqlGuard guard;
  Machine machine;
  const char* kRaise = "outb 0x3fc 0x08\noutb 0x3f9 0x02\n";
  CHECK(machine.talk(kRaise) == "OK\nOK\n");  // nobody watches
  CHECK(machine.talk("inb 0x3fa\n") == "OK 0x0002\n");
  CHECK(machine.talk("irq_intercept_in ioapic\nirq_intercept_in ioapic\n") == "OK\nOK\n");
  CHECK(machine.talk("outb 0x3f9 0x00\noutb 0x3f9 0x02\n") == "OK\nIRQ raise 4\nOK\n");
  CHECK(machine.talk("inb 0x3fa\n") == "IRQ lower 4\nOK 0x0002\n");
  CHECK(machine.talk("set_irq_in ioapic unnamed-gpio-in 7 1\n") == "IRQ raise 7\nOK\n");
  CHECK(machine.talk("set_irq_in ioapic unnamed-gpio-in 7 1\n") == "OK\n");
  CHECK(machine.talk("irq_intercept_in /machine/ioapic\n") ==
        "FAIL IRQ intercept already enabled\n");
}

TEST_CASE("Qtest: paths that do not exist are named in the answer", "[qtest][irq]") {
  BqlGuard guard;
  Machine machine;
  CHECK(machine.talk("irq_intercept_in /nope\n") ==
        "FAIL Unknown device '/nope'; there is: ioapic\n");
  CHECK(machine.talk("irq_intercept_out ioapic\n") == "FAIL 'ioapic' has no outputs\n");
}

TEST_CASE("Qtest: a client that reads slowly gets every answer, and waits with its commands",
          "[qtest][flow]") {
  BqlGuard guard;
  Machine machine;
  machine.client.set_room(0);
  std::string commands;
  for (int i = 0; i < 5; ++i) commands += "read 0 0x10000\n";
  machine.client.push(commands);
  CHECK(machine.server->can_receive() == 0);  // the first answer alone is over the limit
  machine.client.make_room(test::FakeChardev::kUnlimited);
  CHECK(machine.server->can_receive() > 0);
  CHECK(machine.client.invitations() > 0);
  CHECK(machine.client.sent().size() == 5 * (5 + 2 * 0x10000 + 1));
}

TEST_CASE("Qtest: a new client starts afresh", "[qtest]") {
  BqlGuard guard;
  Machine machine;
  machine.talk("irq_intercept_in ioapic\nendian");
  machine.client.event(devices::CharEvent::kClosed);
  machine.client.event(devices::CharEvent::kOpened);
  CHECK(machine.talk("endianness\n") == "OK little\n");
  CHECK(machine.talk("set_irq_in ioapic unnamed-gpio-in 7 1\n") == "OK\n");
  CHECK(machine.talk("irq_intercept_in /machine/ioapic\n") == "OK\n");
}

TEST_CASE("Qtest: the server lets go of the backend and of the interrupts", "[qtest]") {
  BqlGuard guard;
  Machine machine;
  machine.talk("irq_intercept_in ioapic\n");
  machine.server.reset();
  CHECK(machine.client.frontend() == nullptr);
  machine.irqs.set_irq(3, true);
  CHECK(machine.client.sent().empty());
}
