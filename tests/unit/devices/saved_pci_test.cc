// The host bridge's and a function's state on their way to another machine.
#include <catch2/catch.hpp>
#include <string>
#include <utility>

#include "tests/unit/devices/pci_fixture.h"
#include "tests/unit/devices/saved_device_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

TEST_CASE("PciDevice: BARs are mapped where the loaded bytes say, at once", "[pci][saved]") {
  BqlGuard guard;
  PciDeviceState state;
  {
    Machine source;
    const auto device = source.plug(3);
    for (const auto& [reg, value] : {std::pair{0x10U, 0x1000U},
                                     {0x14U, 0xc000'0000U},
                                     {0x18U, 0xc001'0000U},
                                     {0x3cU, 11U},
                                     {0x04U, 3U}}) {
      source.config_out(3, reg, value, 4);
    }
    state = device->pci_state();
  }
  Machine b;
  const auto device = b.plug(3);
  b.config_out(3, 0x14, 0xd000'0000, 4);
  b.config_out(3, 0x04, 0x2, 2);
  REQUIRE(b.memory_load(0xd000'0000) == kBarFill);
  auto changes = std::make_shared<Changes>();
  b.memory_space().register_listener(changes);
  changes->count = 0;

  REQUIRE(device->check_pci_state(state).has_value());
  device->set_pci_state(state);
  CHECK(changes->count == 1);
  CHECK(b.in(0x1000, 1) == kBarFill);
  CHECK(b.memory_load(0xc000'0000) == kBarFill);
  CHECK(b.memory_load(0xc001'0000) == kBarFill);
  CHECK(b.memory_load(0xd000'0000) != kBarFill);
  CHECK(b.config_in(3, 0x3c, 1) == 11);
  b.memory_space().unregister_listener(*changes);
}

TEST_CASE("PciDevice: a wire is held after a load as before, and let go", "[pci][saved]") {
  BqlGuard guard;
  Machine machine;
  const auto device = machine.plug(3);
  device->set_intx(true);
  const PciDeviceState state = device->pci_state();
  device->set_intx(false);
  for (int i = 0; i < 2; ++i) device->set_pci_state(state);  // it is not held twice
  CHECK(machine.irq.level(kFirstGsi + 3));
  device->set_intx(false);
  CHECK_FALSE(machine.irq.level(kFirstGsi + 3));
}

TEST_CASE("PciDevice: a state that differs where no store reaches is refused",
          "[pci][saved][sweep]") {
  BqlGuard guard;
  Machine machine;
  const auto device = machine.plug(3);
  const PciDeviceState state = device->pci_state();
  const auto refusal = [&](size_t byte, uint8_t flip) REQUIRES(bql) -> std::string {
    PciDeviceState spoilt = state;
    spoilt.config[byte] = static_cast<uint8_t>(spoilt.config[byte] ^ flip);
    const auto checked = device->check_pci_state(spoilt);
    return checked ? "" : checked.error().message();
  };
  // identity, reserved command bits, a BAR's type and size bits, header type, pin, beyond
  for (const auto& [byte, flip] : {std::pair<size_t, uint8_t>{0x00, 0x01},
                                   {0x02, 0x01},
                                   {0x05, 0x80},
                                   {0x0b, 0x01},
                                   {0x0e, 0x80},
                                   {0x10, 0x01},
                                   {0x14, 0x08},
                                   {0x15, 0x01},
                                   {0x34, 0x40},
                                   {0x3d, 0x01},
                                   {0xff, 0x01}}) {
    CAPTURE(byte);
    CHECK(refusal(byte, flip).starts_with("field 'config': byte "));
  }
  CHECK(refusal(0x06, 0x08) == "field 'intx': false, the status register says otherwise");
  for (const auto& [byte, flip] : {std::pair<size_t, uint8_t>{0x04, 0x07},
                                   {0x07, 0x80},
                                   {0x0c, 0xff},
                                   {0x10, 0xc0},
                                   {0x1f, 0xff},
                                   {0x3c, 0xff}}) {
    CAPTURE(byte);
    CHECK(refusal(byte, flip).empty());
  }
}

TEST_CASE("PciHost: address and bridge go on after a load", "[pci][host][saved]") {
  BqlGuard guard;
  PciHostState state;
  {
    Machine source;
    source.config_out(0, 0x59, 0x33, 1);
    source.select(0, 0x58);
    state = state_of<PciHostState>(*source.host);
  }
  Machine b;
  REQUIRE(refusal(*b.host, state).empty());
  CHECK(b.in(0xcf8, 4) == 0x8000'0058);
  CHECK(b.in(0xcfd, 1) == 0x33);
  state.address = 1;
  CHECK(refusal(*b.host, state) == "pci: field 'address': 0x1, has no bits but 0x80fffffc");
  state.address = 0;
  state.bridge.config[0] = 0;
  CHECK(refusal(*b.host, state) ==
        "pci: field 'bridge': field 'config': byte 0x00 is 0x00, ours is 0x86");
}
