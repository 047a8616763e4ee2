// T004a with a SCSI host adapter: an eject on a thread of its own, inside a read section, takes the
// adapter and its units, with commands under way on every queue. And units that go by themselves.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "devices/virtio/virtio_pci.h"
#include "tests/unit/vmm/hotplug_fixture.h"

using namespace rhea;
using test::GuestBuffer;
using test::GuestQueue;

namespace {

constexpr unsigned kRequestQueues = 2, kUnits = 2, kFirstRequestQueue = 2;
constexpr size_t kReads = 4;
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
/// With an adapter of two units whose reads are held.
class Fixture : public test::BusyDeviceFixture {
 public:
  Fixture() : BusyDeviceFixture(kStorage) {}

  using BusyDeviceFixture::plug;
  void plug() override {
    plug(kAdapter);
    for (const std::string_view lun : kLuns) plug(lun);
  }
  /// Each unit holds kReads reads of each queue.
  void make_busy() override {
    bql.assert_held();
    test::VirtioDriver driver(machine(), 5);
    auto* pci = dynamic_cast<devices::VirtioPci*>(bus().device_at(5));
    driver.negotiate(~uint64_t{0});
    queues_.clear();
    next_page_ = 0;
    for (uint16_t i = 0; i < kFirstRequestQueue + kRequestQueues; ++i) {
      queues_.push_back(
          driver.set_up_queue(i, 0x10000 + uint64_t{0x10000} * i, 64, pci->device().kick_fd(i)));
    }
    driver.go();
    for (unsigned unit = 0; unit < kUnits; ++unit) hear_of_power_on(unit);
    for (unsigned i = 0; i < kRequestQueues; ++i) {
      GuestQueue& queue = queues_[kFirstRequestQueue + i];
      for (size_t n = 0; n < kReads * kUnits; ++n) {
        offer(queue, n % kUnits, {0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0});  // READ(10) of a block
      }
      queue.ring();
    }
    wait_until_held({"n0", "n1"}, held());
  }
  size_t held() const override { return kRequestQueues * kUnits * kReads; }
  std::vector<std::string> deleted() const override {
    return {"DEVICE_DELETED lun1", "DEVICE_DELETED lun0",
            "DEVICE_DELETED /machine/peripheral/scsi0/virtio-backend", "DEVICE_DELETED scsi0"};
  }
  /// Waits until `count` commands have been answered.
  void take_answers(size_t count) {
    turn_until([&] {
      loop().service().notify();  // nobody kicks for what a test looks at
      for (GuestQueue& queue : queues_) {
        while (queue.take()) --count;
      }
      return count == 0;
    });
  }
  size_t resume() override { return injector("n0").resume("held") + injector("n1").resume("held"); }

 private:
  /// Each command has a page of its own, as the queues run on two threads: the header, what comes
  /// back at 0x400 and the data at 0x800, neither of which is looked at.
  void offer(GuestQueue& queue, size_t unit, std::array<uint8_t, 10> cdb) {
    const uint64_t page = 0x20'0000 + 0x1000 * next_page_++;
    std::byte* header = machine().ram() + page;
    std::memset(header, 0, 51);
    header[0] = std::byte{1};  // a single level LUN structure: target 0
    header[3] = static_cast<std::byte>(unit);
    std::ranges::copy(std::as_bytes(std::span(cdb)), header + 19);
    queue.offer(std::array{GuestBuffer{page, 51, false}, GuestBuffer{page + 0x400, 108, true},
                           GuestBuffer{page + 0x800, 512, true}});
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
  uint64_t next_page_ = 0;
};

}  // namespace

TEST_CASE("T004a: a vCPU's write ejects an adapter with its units and commands under way",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  test::eject_busy_device(f);
}

TEST_CASE("T004a: an adapter is taken off its bus inside the read section of the eject's write",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  test::eject_in_its_own_section(f);
  CHECK(f.user_devices().find("lun0") == nullptr);
}

TEST_CASE("Hotplug: a unit goes when its commands have ended, and main does not wait for them",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  f.plug();
  for (int round = 0; round < test::sized(5, 100); ++round) {
    test::Watchdog watchdog("a unit that leaves", Fixture::kPatience);
    f.make_busy();
    REQUIRE(f.ask_for("lun0").has_value());
    CHECK(f.ask_for("lun0").error().kind() == ErrorKind::kBusy);
    const vmm::Hotplug::Status status = f.query().back();  // behind those with a slot
    CHECK(status.id == "lun0");
    CHECK_FALSE(status.slot.has_value());
    CHECK(status.reason == "what it has under way has not ended");
    // The other unit's commands end meanwhile.
    CHECK(f.injector("n1").resume("held") == f.held() / kUnits);
    f.take_answers(f.held() / kUnits);
    CHECK(f.events.empty());
    CHECK(f.injector("n0").resume("held") == f.held() / kUnits);
    f.turn_until([&] { return !f.events.empty(); });
    CHECK(f.events == std::vector<std::string>{"DEVICE_DELETED lun0"});
    CHECK(f.query().back().id == "scsi0");
    f.events.clear();
    f.HotplugFixture::plug(kLuns[0]);
    f.take_answers(f.held() / kUnits);
    f.bus().device_at(5)->reset();
  }
}

TEST_CASE("T004a: an adapter is ejected while a unit of it leaves, and each is told of once",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  for (int round = 0; round < test::sized(5, 100); ++round) {
    test::Watchdog watchdog("the eject of an adapter whose unit leaves", Fixture::kPatience);
    f.plug();
    f.make_busy();
    REQUIRE(f.ask_for("lun0").has_value());
    test::EjectingVcpu vcpu(f);
    f.turn_until([&] { return vcpu.stored() && f.query().size() == 2; });
    CHECK(f.query()[0].id == "scsi0");
    CHECK(f.query()[1].id == "lun0");
    CHECK(f.events.empty());
    CHECK(f.resume() == f.held());
    // The unit may go by itself, just before.
    f.turn_until([&] { return f.events.size() == f.deleted().size(); });
    vcpu.leave();
    CHECK(f.bus().device_at(5) == nullptr);
    CHECK(f.events.back() == f.deleted().back());
    std::ranges::sort(f.events);
    auto expected = f.deleted();
    std::ranges::sort(expected);
    CHECK(f.events == expected);
    CHECK(f.query().empty());
    f.events.clear();
  }
}

TEST_CASE("Hotplug: a machine ends while a unit waits for its commands to leave",
          "[vmm][hotplug]") {
  test::Watchdog watchdog("the end of a machine", Fixture::kPatience);
  Fixture f;
  bql.assert_held();
  f.plug();
  f.make_busy();
  REQUIRE(f.ask_for("lun1").has_value());
  CHECK(f.resume() == f.held());
}
