#include "devices/acpi_pci_hotplug.h"

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/address_space.h"
#include "tests/unit/devices/saved_device_fixture.h"
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

// --- Migration --------------------------------------------------------------------------------

namespace {

/// Registers without an address space.
struct Bare {
  // Unchecked: its test holds the BQL.
  Bare() NO_THREAD_SAFETY_ANALYSIS {
    MUST(registers->realize());
    registers->set_eject([this](const AcpiPciHotplug::Eject& e) { ejects.push_back(e); });
  }
  // Unchecked: likewise.
  ~Bare() NO_THREAD_SAFETY_ANALYSIS { registers->unrealize(); }
  uint64_t load(uint64_t at) { return registers->io_read(at, 4); }
  void store(uint64_t at, uint64_t value) { registers->io_write(at, value, 4); }
  std::vector<AcpiPciHotplug::Eject> ejects;
  std::shared_ptr<AcpiPciHotplug> registers = std::make_shared<AcpiPciHotplug>("hotplug", [] {});
};

}  // namespace

TEST_CASE("AcpiPciHotplug: what the guest has to hear it hears after a load", "[hotplug][saved]") {
  BqlGuard guard;
  Bare a, b;
  a.registers->device_came(5);
  a.registers->ask_for(7);
  REQUIRE(a.load(kAsked) == 1U << 7);
  a.registers->ask_for(9);
  REQUIRE(test::hand_over(*a.registers, *b.registers).has_value());
  CHECK(b.load(kUp) == 1U << 5);
  CHECK(b.load(kDown) == (1U << 7 | 1U << 9));
  CHECK(b.load(kAsked) == 1U << 9);
}

TEST_CASE("AcpiPciHotplug: an eject that is held travels, and is told when the machine runs",
          "[hotplug][saved]") {
  BqlGuard guard;
  Bare a, b;
  a.registers->hold_ejects();
  a.store(kEject, 1U << 7);
  CHECK(a.ejects.empty());
  REQUIRE(test::hand_over(*a.registers, *b.registers).has_value());
  CHECK(b.ejects.empty());
  b.registers->resume_loaded();
  REQUIRE(b.ejects.size() == 1);
  CHECK(b.ejects[0].slots == 1U << 7);
  b.store(kEject, 1U << 8);  // told at once again
  CHECK(b.ejects.size() == 2);
  // The hand-over failed: the source tells of it instead.
  a.registers->release_ejects();
  REQUIRE(a.ejects.size() == 1);
  a.registers->release_ejects();
  CHECK(a.ejects.size() == 1);
}

TEST_CASE("AcpiPciHotplug: a late answer stays late, held or moved, unless another is in time",
          "[hotplug][saved]") {
  BqlGuard guard;
  Bare a, b;
  for (const unsigned slot : {7U, 8U}) {
    a.registers->ask_for(slot);
    (void)a.load(kAsked);
    a.registers->device_came(slot);  // the guest still has a request for the one before
  }
  REQUIRE(test::hand_over(*a.registers, *b.registers).has_value());
  b.registers->hold_ejects();
  b.store(kEject, 1U << 7);
  b.store(kEject, 1U << 8);
  b.store(kEject, 1U << 8);
  b.registers->release_ejects();
  REQUIRE(b.ejects.size() == 1);
  CHECK(b.ejects[0].slots == (1U << 7 | 1U << 8));
  CHECK(b.ejects[0].late == 1U << 7);
}

TEST_CASE("AcpiPciHotplug: a reset forgets what the guest before it ejected", "[hotplug][saved]") {
  BqlGuard guard;
  Bare a;
  a.registers->hold_ejects();
  a.store(kEject, 1U << 7);
  a.registers->reset();
  a.registers->release_ejects();
  CHECK(a.ejects.empty());
}

TEST_CASE("AcpiPciHotplug: a state that the registers can not have is refused",
          "[hotplug][saved][sweep]") {
  BqlGuard guard;
  struct Row {
    const char* field;
    void (*spoil)(AcpiPciHotplugState&);
  };
  Bare bare;
  for (const Row& row : {
           Row{"up", [](auto& s) { s.up = 1; }},
           Row{"down", [](auto& s) { s.down = 2; }},
           Row{"asked", [](auto& s) { s.asked = 4; }},
           Row{"taken", [](auto& s) { s.taken[5] = {.all = 1, .earlier = 2}; }},
           Row{"taken", [](auto& s) { s.taken[1] = {.all = 1, .earlier = 0}; }},
           Row{"held_slots", [](auto& s) { s.held_slots = 2; }},
           Row{"held_late", [](auto& s) { s.held_late = 4; }},
       }) {
    auto state = test::state_of<AcpiPciHotplugState>(*bare.registers);
    CHECK(test::refusal(*bare.registers, state).empty());
    row.spoil(state);
    CAPTURE(row.field);
    CHECK(test::refusal(*bare.registers, state)
              .starts_with("hotplug: field '" + std::string(row.field) + "'"));
  }
}
