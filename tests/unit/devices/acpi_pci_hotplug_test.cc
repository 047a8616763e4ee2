#include "devices/acpi_pci_hotplug.h"

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "memory/address_space.h"
#include "util/bql.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;

namespace {

constexpr uint64_t kUp = 0x00, kDown = 0x04, kEject = 0x08, kRemovable = 0x0c, kBus = 0x10,
                   kAcpiIndex = 0x14, kAsked = 0x18;

/// The registers at 0 of an address space, and what they tell.
class Fixture {
 public:
  // Unchecked: the destructor gives the BQL back.
  Fixture() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    registers = std::make_shared<AcpiPciHotplug>("hotplug", [this] { ++events; });
    MUST(registers->realize());
    registers->set_eject([this](const AcpiPciHotplug::Eject& eject) {
      ejected.push_back(eject.slots);
      late.push_back(eject.late);
    });
    root_.add(registers->io(), 0);
    space_.emplace("io", root_);
  }
  // Unchecked: the constructor took the BQL.
  ~Fixture() NO_THREAD_SAFETY_ANALYSIS {
    root_.remove(registers->io());
    registers->unrealize();
    space_.reset();
    registers.reset();
    bql.unlock();
    rcu_drain_callbacks();
  }
  uint64_t load(uint64_t at, unsigned size = 4) { return space_->load({at}, size); }
  void store(uint64_t at, uint64_t value, unsigned size = 4) { space_->store({at}, value, size); }

  std::shared_ptr<AcpiPciHotplug> registers;
  int events = 0;
  std::vector<uint32_t> ejected, late;

 private:
  RcuThread rcu_;
  memory::MemoryRegion root_{"io", uint64_t{1} << 16};
  std::optional<memory::AddressSpace> space_;
};

}  // namespace

TEST_CASE("AcpiPciHotplug: what came is told once, what is to go until it has gone", "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->device_came(5);
  f.registers->device_came(31);
  f.registers->ask_for(7);
  CHECK(f.events == 3);
  CHECK(f.registers->announces(5));
  CHECK(f.load(kUp) == ((1U << 5) | (1U << 31)));
  CHECK(f.load(kUp) == 0);
  CHECK_FALSE(f.registers->announces(5));
  CHECK(f.load(kDown) == 1U << 7);
  CHECK(f.load(kDown) == 1U << 7);
  f.registers->forget(7);
  CHECK(f.load(kDown) == 0);
}

TEST_CASE("AcpiPciHotplug: a guest that works on a request is not told of it again", "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->ask_for(7);
  CHECK(f.load(kAsked) == 1U << 7);
  // It has looked, and enables the event that its method had off.
  f.registers->event_enabled();
  CHECK(f.events == 1);
  f.registers->device_came(9);
  CHECK(f.load(kAsked) == 0);
  CHECK(f.load(kDown) == 1U << 7);
  f.registers->ask_for(7);
  CHECK(f.load(kAsked) == 1U << 7);
  f.registers->ask_for(7);
  f.registers->forget(7);
  CHECK(f.load(kAsked) == 0);
  f.store(kAsked, 1U << 7);
  CHECK(f.load(kAsked) == 0);
}

TEST_CASE("AcpiPciHotplug: asking again raises the event again, and so does listening",
          "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->event_enabled();
  CHECK(f.events == 0);
  f.registers->ask_for(7);
  f.registers->ask_for(7);
  CHECK(f.events == 2);
  f.registers->event_enabled();
  CHECK(f.events == 3);
  f.registers->reset();
  f.registers->event_enabled();
  CHECK(f.events == 3);
}

TEST_CASE("AcpiPciHotplug: ejecting is passed on, and changes nothing by itself", "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->ask_for(2);
  f.store(kEject, 1U << 2 | 1U << 30);
  f.store(kEject, 0);
  CHECK(f.ejected == std::vector<uint32_t>{1U << 2 | 1U << 30});
  CHECK(f.load(kDown) == 1U << 2);
  CHECK(f.load(kEject) == 0);
}

TEST_CASE("AcpiPciHotplug: slots that stay and buses that are not there are refused", "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->device_came(3);
  for (const uint32_t slots : {1U, 2U, 7U, 0xffff'ffffU}) f.store(kEject, slots);
  CHECK(f.registers->guest_errors() == 4);
  f.store(kBus, 1);
  f.store(kEject, 1U << 3);
  CHECK(f.ejected.empty());
  CHECK(f.load(kBus) == 1);
  CHECK(f.load(kUp) == 0);
  CHECK(f.load(kRemovable) == 0);
  f.store(kBus, 0);
  CHECK(f.load(kUp) == 1U << 3);
  CHECK(f.load(kRemovable) == 0xffff'fffc);
  CHECK(f.load(kAcpiIndex) == 0);
  f.store(kAcpiIndex, 9);
  CHECK(f.load(kAcpiIndex) == 0);
}

TEST_CASE("AcpiPciHotplug: an eject that answers a request for an earlier device is late",
          "[hotplug]") {
  Fixture f;
  bql.assert_held();
  const auto ask = [&f](unsigned slot) {
    bql.assert_held();
    f.registers->ask_for(slot);
    f.load(kAsked);
  };
  ask(7);
  ask(7);
  f.registers->ask_for(7);  // not taken by the guest
  f.store(kEject, 1U << 7);
  f.registers->forget(7);
  CHECK(f.load(kAsked) == 0);
  f.registers->device_came(7);
  ask(7);
  f.store(kEject, 1U << 7 | 1U << 9);  // the second of the first device's
  f.store(kEject, 1U << 7);
  f.store(kEject, 1U << 7);  // what nobody asks for is never late
  CHECK(f.late == std::vector<uint32_t>{0, 1U << 7, 0, 0});
  ask(8);
  f.registers->device_came(8);
  f.registers->reset();  // that guest has gone, and its queue
  f.store(kEject, 1U << 8);
  CHECK(f.late.back() == 0);
}

TEST_CASE("AcpiPciHotplug: other widths than 32 bits are refused", "[hotplug]") {
  Fixture f;
  bql.assert_held();
  f.registers->device_came(3);
  CHECK(f.load(kUp, 1) == 0xff);
  CHECK(f.load(kUp, 2) == 0xffff);
  f.store(kEject, 1U << 3, 2);
  CHECK(f.ejected.empty());
  CHECK(f.load(kUp) == 1U << 3);
}
