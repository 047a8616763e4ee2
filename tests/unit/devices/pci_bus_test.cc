#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/devices/pci_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

// --- Ports ------------------------------------------------------------------------------------

TEST_CASE("PciHost: slot 0 is an i440FX and slot 1 is empty", "[pci][host]") {
  BqlGuard guard;
  Machine machine;
  CHECK(machine.config_in(0, 0x00, 4) == 0x1237'8086);
  CHECK(machine.config_in(0, 0x08, 4) == 0x0600'0002);
  CHECK(machine.config_in(0, 0x0e, 1) == 0x00);
  CHECK(machine.config_in(1, 0x00, 4) == 0xffff'ffff);
}

TEST_CASE("PciHost: absent functions read all-ones at every width and drop stores",
          "[pci][host][sweep]") {
  BqlGuard guard;
  Machine machine;
  struct Row {
    const char* name;
    unsigned slot, function, bus;
  };
  for (const Row row : {Row{"slot", 7, 0, 0}, Row{"function", 0, 1, 0}, Row{"bus", 0, 0, 1}}) {
    CAPTURE(row.name);
    machine.select(row.slot, 0, row.function, row.bus);
    CHECK(machine.in(0xcfc, 1) == 0xff);
    CHECK(machine.in(0xcfc, 2) == 0xffff);
    CHECK(machine.in(0xcfe, 2) == 0xffff);
    CHECK(machine.in(0xcfc, 4) == 0xffff'ffff);
    machine.out(0xcfc, 0, 4);
  }
}

TEST_CASE("PciHost: without the enable bit there is no configuration cycle", "[pci][host]") {
  BqlGuard guard;
  Machine machine;
  machine.out(0xcf8, 0x0000'0000, 4);
  CHECK(machine.in(0xcfc, 4) == 0xffff'ffff);
  machine.out(0xcfc, 0x12, 1);
  CHECK(machine.config_in(0, 0x00, 4) == 0x1237'8086);
}

TEST_CASE("PciHost: the address reads back without its reserved bits, as a dword only",
          "[pci][host][sweep]") {
  BqlGuard guard;
  Machine machine;
  machine.out(0xcf8, 0xffff'ffff, 4);
  CHECK(machine.in(0xcf8, 4) == 0x80ff'fffc);
  for (const unsigned port : {0xcf8U, 0xcfaU, 0xcfbU}) {
    CAPTURE(port);
    CHECK(machine.in(port, 1) == 0xff);
    machine.out(port, 0x00, 1);
  }
  CHECK(machine.in(0xcf8, 2) == 0xffff);
  machine.out(0xcfa, 0x0000, 2);
  CHECK(machine.in(0xcf8, 4) == 0x80ff'fffc);
  machine.host->reset();
  CHECK(machine.in(0xcf8, 4) == 0);
}

TEST_CASE("PciHost: a byte at 0xcf9 is the reset control register", "[pci][host][reset]") {
  BqlGuard guard;
  Machine machine;
  machine.out(0xcf8, 0x8000'0000, 4);
  machine.out(0xcf9, 0x02, 1);
  CHECK(machine.in(0xcf9, 1) == 0x02);
  machine.out(0xcf9, 0x06, 1);
  CHECK(machine.resets == 1);
  CHECK(machine.in(0xcf8, 4) == 0x8000'0000);
}

TEST_CASE("PciHost: data-port accesses reach the bytes they name", "[pci][host][sweep]") {
  BqlGuard guard;
  Machine machine;
  CHECK(machine.config_in(0, 0x00, 2) == 0x8086);
  CHECK(machine.config_in(0, 0x02, 2) == 0x1237);
  CHECK(machine.config_in(0, 0x03, 1) == 0x12);
  machine.config_out(0, 0x3c, 0x0b, 1);
  CHECK(machine.config_in(0, 0x3c, 4) == 0x0b);
  machine.config_out(0, 0x5d, 0x33, 1);
  CHECK(machine.config_in(0, 0x5c, 4) == 0x3300);
  CHECK(machine.config_in(0, 0x01, 2) == 0x3780);
  machine.select(0, 0xfc);
  CHECK(machine.in(0xcff, 2) == 0xff00);  // its second byte is no configuration port
  CHECK(machine.host->data_handler().io_read(3, 2) == 0xffff);  // nor is it for a sloppy bus
}

// --- BARs -------------------------------------------------------------------------------------

TEST_CASE("PciDevice: BARs appear where and while the guest says", "[pci][bar]") {
  BqlGuard guard;
  Machine machine;
  machine.plug(3);
  machine.config_out(3, 0x10, 0xc000, 4);
  machine.config_out(3, 0x14, 0xfebf'0000, 4);
  machine.config_out(3, 0x18, 0x0000'0000, 4);
  machine.config_out(3, 0x1c, 0x0000'0080, 4);
  CHECK(machine.in(0xc000, 1) == 0xff);
  CHECK(machine.memory_load(0xfebf'0000) == 0xff);

  machine.config_out(3, 0x04, 0x0001, 2);  // I/O only
  CHECK(machine.in(0xc000, 1) == kBarFill);
  CHECK(machine.in(0xc03f, 1) == kBarFill);
  CHECK(machine.in(0xc040, 1) == 0xff);
  CHECK(machine.memory_load(0xfebf'0000) == 0xff);

  machine.config_out(3, 0x04, 0x0002, 2);  // memory only
  CHECK(machine.in(0xc000, 1) == 0xff);
  CHECK(machine.memory_load(0xfebf'0fff) == kBarFill);
  CHECK(machine.memory_load(0xfebf'1000) == 0xff);
  CHECK(machine.memory_load(uint64_t{0x80} << 32) == kBarFill);

  machine.config_out(3, 0x14, 0xfec0'0000, 4);  // moved while it decodes
  CHECK(machine.memory_load(0xfebf'0000) == 0xff);
  CHECK(machine.memory_load(0xfec0'0000) == kBarFill);
}

TEST_CASE("PciDevice: one store changes all its mappings in one step", "[pci][bar]") {
  BqlGuard guard;
  Machine machine;
  machine.plug(3);
  machine.config_out(3, 0x14, 0xfebf'0000, 4);
  machine.config_out(3, 0x18, 0xfea0'0000, 4);
  auto changes = std::make_shared<Changes>();
  machine.memory_space().register_listener(changes);
  const unsigned before = changes->count;
  machine.config_out(3, 0x04, 0x0002, 2);
  CHECK(changes->count == before + 1);
  machine.config_out(3, 0x3c, 0x0a, 1);  // changes no mapping
  machine.config_out(3, 0x04, 0x0006, 2);
  CHECK(changes->count == before + 1);
  machine.memory_space().unregister_listener(*changes);
}

TEST_CASE("PciDevice: sizing a BAR with its decoding on maps nothing strange", "[pci][bar]") {
  BqlGuard guard;
  Machine machine;
  machine.plug(3);
  machine.config_out(3, 0x04, 0x0003, 2);
  for (const unsigned bar : {0x10U, 0x14U, 0x18U, 0x1cU}) {
    machine.config_out(3, bar, 0xffff'ffff, 4);
  }
  CHECK(machine.memory_load(0xffff'f000) == 0xff);
  CHECK(machine.in(0xffc0, 1) == 0xff);
  machine.config_out(3, 0x14, 0xfebf'0000, 4);
  CHECK(machine.memory_load(0xfebf'0000) == kBarFill);
}

TEST_CASE("PciDevice: reset unmaps its BARs and clears the command register", "[pci][bar]") {
  BqlGuard guard;
  Machine machine;
  auto device = machine.plug(3);
  machine.config_out(3, 0x14, 0xfebf'0000, 4);
  machine.config_out(3, 0x04, 0x0006, 2);
  device->set_intx(true);
  REQUIRE(machine.memory_load(0xfebf'0000) == kBarFill);
  machine.host->reset();
  CHECK(machine.memory_load(0xfebf'0000) == 0xff);
  CHECK(machine.config_in(3, 0x04, 4) == 0);
  CHECK(machine.config_in(3, 0x14, 4) == 0);
  CHECK_FALSE(machine.irq.level(kFirstGsi + 3));
}

// --- Bus --------------------------------------------------------------------------------------

TEST_CASE("PciBus: a slot takes one device; taken and absent slots are refused", "[pci][bus]") {
  BqlGuard guard;
  Machine machine;
  machine.plug(3);
  auto second = std::make_shared<TestDevice>("second");
  MUST(second->realize());
  auto taken = machine.host->bus().add(second, 3);
  REQUIRE_FALSE(taken.has_value());
  CHECK(taken.error().kind() == ErrorKind::kExists);
  CHECK(taken.error().message() == "slot 3 of bus 'pci.0' is in use by dev3");
  auto absent = machine.host->bus().add(second, 32);
  REQUIRE_FALSE(absent.has_value());
  CHECK(absent.error().kind() == ErrorKind::kInvalidArgument);
  second->unrealize();
}

TEST_CASE("PciBus: free slots are found in order until the bus is full", "[pci][bus]") {
  BqlGuard guard;
  Machine machine;
  for (unsigned slot = 2; slot < PciBus::kSlots; ++slot) {
    CHECK(MUST(machine.host->bus().free_slot(2)) == slot);
    machine.plug(slot);
  }
  CHECK_FALSE(machine.host->bus().free_slot(2).has_value());
  CHECK(MUST(machine.host->bus().free_slot(1)) == 1);
}

TEST_CASE("PciBus: the slot that has been free for longest is given out first", "[pci][bus]") {
  BqlGuard guard;
  Machine machine;
  PciBus& bus = machine.host->bus();
  const auto plug_and_pull = [&](unsigned slot) {
    bql.assert_held();
    machine.plug(slot);
    PciDevice& device = *bus.device_at(slot);
    bus.remove(device)->unrealize();
  };
  for (unsigned slot = 2; slot < PciBus::kSlots; ++slot) {
    CHECK(MUST(bus.free_slot(2)) == slot);  // those that were never used come first
    plug_and_pull(slot);
  }
  CHECK(MUST(bus.free_slot(2)) == 2);
  plug_and_pull(2);
  plug_and_pull(4);
  CHECK(MUST(bus.free_slot(2)) == 3);
  CHECK(MUST(bus.free_slot(4)) == 5);
}

TEST_CASE("PciBus: a device that is removed leaves no mapping and no interrupt behind",
          "[pci][bus]") {
  BqlGuard guard;
  Machine machine;
  auto device = machine.plug(3);
  machine.config_out(3, 0x14, 0xfebf'0000, 4);
  machine.config_out(3, 0x04, 0x0002, 2);
  device->set_intx(true);
  auto removed = machine.host->bus().remove(*device);
  CHECK(removed == device);
  CHECK(machine.memory_load(0xfebf'0000) == 0xff);
  CHECK_FALSE(machine.irq.level(kFirstGsi + 3));
  CHECK(machine.config_in(3, 0x00, 4) == 0xffff'ffff);
  device->set_intx(false);  // a late change reaches nobody
  device->unrealize();
  machine.plug(3);
  CHECK(machine.config_in(3, 0x00, 4) == 0x0005'1b36);
}

TEST_CASE("PciBus: pins are swizzled by slot over four wires", "[pci][bus][intx][sweep]") {
  BqlGuard guard;
  for (unsigned slot = 2; slot < PciBus::kSlots; ++slot) {
    for (uint8_t pin = 1; pin <= 4; ++pin) {
      Machine machine;
      CAPTURE(slot, int{pin});
      auto device = machine.plug(slot, pin);
      device->set_intx(true);
      for (unsigned wire = 0; wire < 4; ++wire) {
        CHECK(machine.irq.level(kFirstGsi + wire) == ((slot + pin - 1) % 4 == wire));
      }
    }
  }
}

TEST_CASE("PciBus: a shared wire is up while any device holds it", "[pci][bus][intx]") {
  BqlGuard guard;
  Machine machine;
  auto a = machine.plug(4);
  auto b = machine.plug(8);
  a->set_intx(true);
  b->set_intx(true);
  b->set_intx(true);  // told twice is once
  a->set_intx(false);
  CHECK(machine.irq.level(kFirstGsi));
  b->set_intx(false);
  CHECK_FALSE(machine.irq.level(kFirstGsi));
}

TEST_CASE("PciDevice: interrupt-disable holds the wire back, the status bit still shows it",
          "[pci][intx]") {
  BqlGuard guard;
  Machine machine;
  auto device = machine.plug(4);
  machine.config_out(4, 0x04, 0x0400, 2);
  device->set_intx(true);
  CHECK_FALSE(machine.irq.level(kFirstGsi));
  CHECK((machine.config_in(4, 0x06, 2) & 0x08) != 0);
  machine.config_out(4, 0x04, 0x0000, 2);
  CHECK(machine.irq.level(kFirstGsi));
  machine.config_out(4, 0x04, 0x0400, 2);
  CHECK_FALSE(machine.irq.level(kFirstGsi));
  device->set_intx(false);
  CHECK((machine.config_in(4, 0x06, 2) & 0x08) == 0);
}

TEST_CASE("PciDevice: a function without a pin drives no wire", "[pci][intx]") {
  BqlGuard guard;
  Machine machine;
  auto device = machine.plug(4, 0);
  device->set_intx(true);
  for (unsigned wire = 0; wire < 4; ++wire) CHECK_FALSE(machine.irq.level(kFirstGsi + wire));
}
