// T004a with a real disk: the guest's store to the eject register, on a thread of its own and
// inside a read section, ends a virtio-blk device that has requests under way.
#include "vmm/hotplug.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "devices/virtio/virtio_pci.h"
#include "tests/support/watchdog.h"
#include "tests/unit/vmm/hotplug_fixture.h"

using namespace rhea;
using test::GuestBuffer;
using test::GuestQueue;

namespace {

constexpr unsigned kQueues = 2;
constexpr std::string_view kStorage =
    "-object iothread,id=io0 -object iothread,id=io1 -blockdev blkdebug,node-name=n0,"
    "image.driver=null-co,image.size=1M,image.read-zeroes=on,"
    "inject-error.0.event=read_aio,inject-error.0.suspend=held";
constexpr std::string_view kDisk =
    R"(driver=virtio-blk-pci,id=vd0,drive=n0,num-queues=2,addr=5,)"
    R"(iothread-vq-mapping.0.iothread=io0,iothread-vq-mapping.1.iothread=io1)";

/// With a disk whose reads are held.
class Fixture : public test::BusyDeviceFixture {
 public:
  Fixture() : BusyDeviceFixture(kStorage) {}
  using BusyDeviceFixture::plug;
  void plug() override { plug(kDisk); }
  void make_busy() override { make_busy(4); }
  size_t held() const override { return kQueues * size_t{4}; }
  size_t resume() override { return injector("n0").resume("held"); }
  std::vector<std::string> deleted() const override {
    return {"DEVICE_DELETED /machine/peripheral/vd0/virtio-backend", "DEVICE_DELETED vd0"};
  }
  /// Has the disk hold `count` reads of each queue.
  void make_busy(int count) {
    bql.assert_held();
    test::VirtioDriver driver(machine(), 5);
    auto* pci = dynamic_cast<devices::VirtioPci*>(machine().bus().device_at(5));
    driver.negotiate(~uint64_t{0});
    std::vector<GuestQueue> queues;
    for (uint16_t i = 0; i < kQueues; ++i) {
      queues.push_back(
          driver.set_up_queue(i, 0x10000 + uint64_t{0x10000} * i, 16, pci->device().kick_fd(i)));
    }
    driver.go();
    std::memset(machine().ram() + 0x1000, 0, 16);  // the header of a read of sector 0
    // What comes back is not looked at, but each has a page of its own: two threads fill them.
    uint64_t page = 0x20'0000;
    for (GuestQueue& queue : queues) {
      for (int i = 0; i < count; ++i, page += 0x1000) {
        queue.offer(std::array{GuestBuffer{0x1000, 16, false}, GuestBuffer{page, 512, true},
                               GuestBuffer{page + 0x800, 1, true}});
      }
      queue.ring();
    }
    wait_until_held({"n0"}, kQueues * static_cast<size_t>(count));
  }
};

}  // namespace

TEST_CASE("T004a: a vCPU's write ejects a disk with requests under way, and main ends it",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  test::eject_busy_device(f);
}

TEST_CASE("T004a: a disk is taken off its bus inside the read section of the eject's write",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  test::eject_in_its_own_section(f);
}

TEST_CASE("Hotplug: an eject of an empty slot does not hit what is plugged in before main looks",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  f.store(Fixture::kEject, 1 << 5);
  f.plug();
  for (int i = 0; i < 5; ++i) {
    f.loop().service().notify();
    f.loop().turn();
  }
  CHECK(f.bus().device_at(5) != nullptr);
  CHECK(f.events.empty());
}

TEST_CASE("Hotplug: a guest that was moved ejects for an earlier device, and the slot's stays",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  f.start_with(kDisk);
  devices::AcpiPciHotplugState state;
  state.taken[5] = {.all = 1, .earlier = 1};
  REQUIRE(f.registers().load("acpi-pci-hotplug", 1, encode_state(state)).has_value());
  f.registers().resume_loaded();
  f.store(Fixture::kEject, 1 << 5);
  for (int i = 0; i < 5; ++i) {
    f.loop().service().notify();
    f.loop().turn();
  }
  CHECK(f.bus().device_at(5) != nullptr);
  CHECK(f.events.empty());
  f.store(Fixture::kEject, 1 << 5);  // and that is its own
  f.turn_until([&] { return f.events == f.deleted(); });
  CHECK(f.bus().device_at(5) == nullptr);
}

TEST_CASE("Hotplug: a device is on its way out from the eject on, before main has looked",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  f.plug();
  f.store(Fixture::kEject, 1 << 5);
  const auto all = f.query();
  REQUIRE(all.size() == 1);
  CHECK(all[0].id == "vd0");
  CHECK(all[0].slot == 5U);
  CHECK(all[0].state == vmm::Hotplug::State::kPending);
  f.turn_until([&] { return f.events == f.deleted(); });
  f.store(Fixture::kEject, 1 << 5);  // of an empty slot
  CHECK(f.query().empty());
}

TEST_CASE("Hotplug: a machine ends while a disk waits for its requests to leave",
          "[vmm][hotplug]") {
  test::Watchdog watchdog("the end of a machine", Fixture::kPatience);
  Fixture f;
  bql.assert_held();
  f.plug();
  f.make_busy(1);
  f.store(Fixture::kEject, 1 << 5);
  f.turn_until([&] { return f.leaving(); });
  CHECK(f.resume() == kQueues);
}
