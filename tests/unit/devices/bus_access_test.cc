// The devices as the guest reaches them: through an address space, at every width.
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "devices/acpi_pm.h"
#include "devices/debug_console.h"
#include "devices/i8042.h"
#include "devices/port92.h"
#include "devices/rtc_mc146818.h"
#include "devices/serial_16550.h"
#include "memory/address_space.h"
#include "tests/support/fake_irq.h"
#include "tests/support/manual_clock.h"
#include "tests/support/watchdog.h"
#include "util/rcu.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::devices;
using namespace std::chrono_literals;
using memory::GuestAddr;

namespace {

/// The PC's ports, without PCI.
class Ports {
 public:
  Ports() REQUIRES(bql) {
    space_.emplace("io", root_);
    for (const auto& device : devices()) MUST(device->realize());
    root_.add(uart->io(), 0x3f8);
    root_.add(rtc->io(), 0x70);
    root_.add(i8042->data_port(), 0x60);
    root_.add(i8042->command_port(), 0x64);
    root_.add(port92->io(), 0x92);
    root_.add(debugcon->io(), 0x402);
    root_.add(pm->events(), 0x600);
    root_.add(pm->timer(), 0x608);
    root_.add(pm->gpe(), 0xafe0);
  }
  ~Ports() {
    bql.assert_held();
    for (auto* region : {&uart->io(), &rtc->io(), &i8042->data_port(), &i8042->command_port(),
                         &port92->io(), &debugcon->io(), &pm->events(), &pm->timer(), &pm->gpe()}) {
      root_.remove(*region);
    }
    for (const auto& device : devices()) device->unrealize();
  }
  std::vector<std::shared_ptr<Device>> devices() {
    return {uart, rtc, i8042, port92, debugcon, pm};
  }
  uint64_t in(uint64_t port, unsigned size) { return space_->load(GuestAddr{port}, size); }
  void out(uint64_t port, uint64_t value, unsigned size) {
    space_->store(GuestAddr{port}, value, size);
  }

 private:
  RcuThread self_;
  memory::MemoryRegion root_{"io", 0x1'0000};
  std::optional<memory::AddressSpace> space_;
  test::ManualClock utc_{1'706'976'309s};

 public:
  test::ManualClock clock;
  TimerList timers{clock, [] {}};
  test::FakeIrq irq;
  std::shared_ptr<Serial16550> uart = std::make_shared<Serial16550>("serial0", irq.line(4), timers);
  std::shared_ptr<RtcMc146818> rtc =
      std::make_shared<RtcMc146818>("rtc", irq.line(8), utc_, timers);
  std::shared_ptr<I8042> i8042 =
      std::make_shared<I8042>("i8042", irq.line(1), irq.line(12), nullptr);
  std::shared_ptr<Port92> port92 = std::make_shared<Port92>("port92", nullptr);
  std::shared_ptr<DebugConsole> debugcon = std::make_shared<DebugConsole>("debugcon");
  std::shared_ptr<AcpiPm> pm =
      std::make_shared<AcpiPm>("pm", irq.line(9), timers, PmTimerWidth::k32Bits, nullptr);
};

}  // namespace

TEST_CASE("Ports: what each reads at each width after reset", "[ports][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* name;
    uint64_t port;
    unsigned size;
    uint64_t value;
  };
  // A byte device's wider access is cut into bytes; bytes beyond a region belong to whoever is
  // there, or to nobody.
  const std::vector<Row> rows{
      {"uart IIR", 0x3fa, 1, 0x01},
      {"uart IIR LCR", 0x3fa, 2, 0x0001},
      {"uart MCR to SCR", 0x3fc, 4, 0x00b06000},
      {"uart misaligned", 0x3fd, 2, 0xb060},
      {"uart SCR and beyond", 0x3ff, 2, 0xff00},
      {"rtc index", 0x70, 1, 0xff},
      {"rtc index and data", 0x70, 2, 0x09ff},
      {"i8042 data", 0x60, 1, 0x00},
      {"i8042 status", 0x64, 1, 0x14},
      {"i8042 status and beyond", 0x64, 2, 0xff14},
      {"port 92", 0x92, 1, 0x02},
      {"debug console", 0x402, 1, 0xe9},
      {"PM1 status", 0x600, 2, 0x0000},
      {"PM1 status and enable", 0x600, 4, 0x0000'0000},
      {"PM1 control", 0x604, 2, 0x0001},
      {"PM1 control, low byte", 0x604, 1, 0x01},
      {"PM timer", 0x608, 4, 0x0000'0000},
      {"PM timer, misaligned", 0x609, 2, 0xffff},
      {"GPE0", 0xafe0, 4, 0x0000'0000},
      {"nothing", 0x500, 4, 0xffff'ffff},
  };
  for (const Row& row : rows) {
    Ports ports;
    CAPTURE(row.name);
    CHECK(ports.in(row.port, row.size) == row.value);
  }
}

TEST_CASE("Ports: a wide store to a byte device is a store to each of its bytes",
          "[ports][sweep]") {
  BqlGuard guard;
  Ports ports;
  ports.out(0x70, 0x3350, 2);  // index 0x50, data 0x33: how old loaders write CMOS
  ports.out(0x70, 0x50, 1);
  CHECK(ports.in(0x71, 1) == 0x33);
  ports.out(0x3ff, 0x1177, 2);
  CHECK(ports.in(0x3ff, 1) == 0x77);
}

TEST_CASE("Ports: a vCPU reads the PM timer while another thread holds the BQL",
          "[ports][lock-free]") {
  BqlGuard guard;
  Ports ports;
  ports.clock.set(1s);
  uint64_t value = 0;
  const uint64_t before = bql.acquisitions();
  auto vcpu = MUST(Thread::start("vcpu", [&] { value = ports.in(0x608, 4); }));
  test::Watchdog watchdog("a read of the PM timer", 30s);
  vcpu.join();  // would never come if the dispatch took the BQL
  CHECK(value == 3'579'545);
  CHECK(bql.acquisitions() == before);
}
