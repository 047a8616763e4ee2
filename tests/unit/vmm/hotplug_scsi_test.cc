// T004a with a SCSI host adapter: an eject on a thread of its own, inside a read section, takes the
// adapter and its units, with commands under way on every queue.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/virtio_pci.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/vmm/hotplug_fixture.h"

using namespace rhea;
using test::GuestBuffer;
using test::GuestQueue;

namespace {

constexpr unsigned kRequestQueues = 2, kUnits = 2, kFirstRequestQueue = 2;
constexpr std::string_view kStorage =
    "-object iothread,id=io0 -object iothread,id=io1 "
    "-blockdev blkdebug,node-name=n0,image.driver=null-co,image.size=1M,image.read-zeroes=on,"
    "inject-error.0.event=read_aio,inject-error.0.suspend=held "
    "-blockdev blkdebug,node-name=n1,image.driver=null-co,image.size=1M,image.read-zeroes=on,"
    "inject-error.0.event=read_aio,inject-error.0.suspend=held";
constexpr std::string_view kAdapter =
    R"(driver=virtio-scsi-pci,id=scsi0,num_queues=2,addr=5,)"
    R"(iothread-vq-mapping.0.iothread=io0,iothread-vq-mapping.1.iothread=io1)";
constexpr std::array<std::string_view, kUnits> kLuns{
    "driver=scsi-hd,id=lun0,drive=n0,bus=scsi0.0,scsi-id=0,lun=0",
    "driver=scsi-hd,id=lun1,drive=n1,bus=scsi0.0,scsi-id=0,lun=1"};
const std::vector<std::string> kDeleted{"DEVICE_DELETED lun1", "DEVICE_DELETED lun0",
                                        "DEVICE_DELETED /machine/peripheral/scsi0/virtio-backend",
                                        "DEVICE_DELETED scsi0"};

/// With an adapter of two units whose reads are held.
class Fixture : public test::HotplugFixture {
 public:
  Fixture() : HotplugFixture(kStorage) {}

  void plug() {
    HotplugFixture::plug(kAdapter);
    for (const std::string_view lun : kLuns) HotplugFixture::plug(lun);
  }
  /// Has each unit hold `count` reads of each queue.
  void make_busy(size_t count) {
    bql.assert_held();
    test::VirtioDriver driver(machine(), 5);
    auto* pci = dynamic_cast<devices::VirtioPci*>(bus().device_at(5));
    driver.negotiate(~uint64_t{0});
    queues_.clear();
    for (uint16_t i = 0; i < kFirstRequestQueue + kRequestQueues; ++i) {
      queues_.push_back(
          driver.set_up_queue(i, 0x10000 + uint64_t{0x10000} * i, 64, pci->device().kick_fd(i)));
    }
    driver.go();
    for (unsigned unit = 0; unit < kUnits; ++unit) hear_of_power_on(unit);
    for (unsigned i = 0; i < kRequestQueues; ++i) {
      GuestQueue& queue = queues_[kFirstRequestQueue + i];
      for (size_t n = 0; n < count * kUnits; ++n) {
        offer(queue, n % kUnits, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0});  // READ(10) of a block
      }
      queue.ring();
    }
    wait_until_held({"n0", "n1"}, kRequestQueues * kUnits * count);
  }
  size_t resume() { return injector("n0").resume("held") + injector("n1").resume("held"); }

 private:
  /// The units' headers lie at 0x1000 and 0x1100, what comes back is not looked at.
  void offer(GuestQueue& queue, size_t unit, std::array<uint8_t, 10> cdb) {
    const uint64_t at = (cdb[0] == 0 ? 0x2000 : 0x1000) + 0x100 * unit;
    std::byte* header = machine().ram() + at;
    std::memset(header, 0, 51);
    header[0] = std::byte{1};  // a single level LUN structure: target 0
    header[3] = static_cast<std::byte>(unit);
    std::ranges::copy(std::as_bytes(std::span(cdb)), header + 19);
    queue.offer(std::array{GuestBuffer{at, 51, false}, GuestBuffer{0x3000, 108, true},
                           GuestBuffer{0x8000, 512, true}});
  }
  /// TEST UNIT READY: the first command is told of the power-on instead of being carried out.
  void hear_of_power_on(unsigned unit) {
    GuestQueue& queue = queues_[kFirstRequestQueue];
    offer(queue, unit, {});
    queue.ring();
    turn_until([&] {
      loop().service().notify();  // nobody kicks for what a test looks at
      return queue.take().has_value();
    });
  }

  std::vector<GuestQueue> queues_;
};

}  // namespace

TEST_CASE("T004a: a vCPU's write ejects an adapter with its units and commands under way",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  const int rounds = test::sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog watchdog("the eject of a busy adapter", Fixture::kPatience);
    f.plug();
    f.make_busy(4);
    std::optional<test::EjectingVcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored() && f.leaving(); });
    REQUIRE(f.bus().device_at(5) != nullptr);
    CHECK(f.events.empty());
    CHECK(f.resume() == kRequestQueues * kUnits * 4);
    // The vCPU still stands in its section: nothing of this waits for it.
    f.turn_until([&] { return !f.events.empty(); });
    CHECK(f.events == kDeleted);
    CHECK(f.bus().device_at(5) == nullptr);
    f.events.clear();
    // All names are free at once, while the last adapter's memory is held.
    if (round % 2 == 0) {
      f.plug();
      f.store(Fixture::kEject, 1 << 5);
      f.turn_until([&] { return !f.events.empty(); });
      CHECK(f.events == kDeleted);
      f.events.clear();
    }
    vcpu->leave();
    vcpu.reset();
  }
}

TEST_CASE("T004a: an adapter is taken off its bus inside the read section of the eject's write",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  const int rounds = test::sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog watchdog("an eject in its own section", Fixture::kPatience);
    f.plug();
    f.make_busy(4);
    std::shared_ptr<devices::PciDevice> device;
    // What main does later, as far as it is legal on a vCPU: views change, listeners hear.
    f.registers().set_eject([&](const devices::AcpiPciHotplug::Eject&) {
      bql.assert_held();
      device = f.bus().remove(*f.bus().device_at(5));
    });
    std::optional<test::EjectingVcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored(); });
    CHECK(f.bus().device_at(5) == nullptr);
    f.registers().set_eject(nullptr);
    CHECK(f.resume() == kRequestQueues * kUnits * 4);
    // The rest is main's: with the commands ended nothing waits, the vCPU's section least of all.
    MUST(f.bus().add(std::exchange(device, nullptr), 5));
    REQUIRE(f.user_devices().remove(*f.user_devices().find("scsi0")).has_value());
    CHECK(f.user_devices().find("lun0") == nullptr);
    vcpu->leave();
    vcpu.reset();
  }
}
