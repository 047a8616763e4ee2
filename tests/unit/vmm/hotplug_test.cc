// T004a with a real disk: the guest's store to the eject register, on a thread of its own and
// inside a read section, ends a virtio-blk device that has requests under way.
#include "vmm/hotplug.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <semaphore>
#include <string>
#include <vector>

#include "block/drivers/blkdebug.h"
#include "devices/virtio/virtio_pci.h"
#include "tests/support/size.h"
#include "tests/support/virtio_guest.h"
#include "tests/support/watchdog.h"
#include "tests/unit/vmm/storage_fixture.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::GuestBuffer;
using rhea::test::GuestQueue;

namespace {

constexpr uint64_t kEject = 0x08;
constexpr unsigned kQueues = 2;
constexpr auto kPatience = std::chrono::seconds(5);  // of a watchdog, too
constexpr std::string_view kStorage =
    "-object iothread,id=io0 -object iothread,id=io1 -blockdev blkdebug,node-name=n0,"
    "image.driver=null-co,image.size=1M,image.read-zeroes=on,"
    "inject-error.0.event=read_aio,inject-error.0.suspend=held";
constexpr std::string_view kDisk =
    R"(driver=virtio-blk-pci,id=vd0,drive=n0,num-queues=2,addr=5,)"
    R"(iothread-vq-mapping.0.iothread=io0,iothread-vq-mapping.1.iothread=io1)";

/// RAM, a bus, the hot-plug registers and what they lead to; a client for a guest.
class Fixture : public rhea::test::StorageFixture {
 public:
  Fixture() : StorageFixture(kStorage) {
    bql.assert_held();
    machine_ = std::make_unique<rhea::test::VirtioMachine>();
    registers_ = std::make_shared<devices::AcpiPciHotplug>("hotplug", [] {});
    MUST(registers_->realize());
    io_root_.add(registers_->io(), 0);
    io_.emplace("io", io_root_);
    devices_ = std::make_unique<UserDevices>(DeviceHost{.loop = loop(),
                                                        .storage = storage(),
                                                        .memory = machine_->space(),
                                                        .msi = machine_->msi()},
                                             machine_->bus());
    devices_->resumed();
    hotplug_ = std::make_unique<Hotplug>(Hotplug::Parts{.service = loop().service(),
                                                        .devices = *devices_,
                                                        .registers = *registers_,
                                                        .timers = loop().service().timers(),
                                                        .patience = kPatience});
    hotplug_->set_publisher([this](std::string_view event, const ReplyJson& data) {
      const auto& name = data.contains("device") ? data["device"] : data["path"];
      events.push_back(std::string(event) + " " + name.get<std::string>());
    });
  }
  ~Fixture() {
    bql.assert_held();
    hotplug_.reset();
    devices_.reset();
    io_root_.remove(registers_->io());
    registers_->unrealize();
    io_.reset();
    machine_.reset();
  }

  void plug() {
    bql.assert_held();
    OptionReader reader(MUST(parse_options(kDisk)));
    DeviceConfig config;
    config.driver = MUST(reader.take_required("driver"));
    config.id = MUST(reader.take_required("id"));
    config.options = reader.take_rest();
    MUST(hotplug_->add(config));
  }
  /// Has the disk hold `count` reads of each queue.
  void make_busy(int count) {
    bql.assert_held();
    rhea::test::VirtioDriver driver(*machine_, 5);
    auto* pci = dynamic_cast<devices::VirtioPci*>(machine_->bus().device_at(5));
    driver.negotiate(~uint64_t{0});
    std::vector<GuestQueue> queues;
    for (uint16_t i = 0; i < kQueues; ++i) {
      queues.push_back(
          driver.set_up_queue(i, 0x10000 + uint64_t{0x10000} * i, 16, pci->device().kick_fd(i)));
    }
    driver.go();
    std::memset(machine_->ram() + 0x1000, 0, 16);  // the header of a read of sector 0
    for (GuestQueue& queue : queues) {
      for (int i = 0; i < count; ++i) {
        queue.offer(std::array{GuestBuffer{0x1000, 16, false}, GuestBuffer{0x8000, 512, true},
                               GuestBuffer{0x2000, 1, true}});
      }
      queue.ring();
    }
    const size_t all = kQueues * static_cast<size_t>(count);
    // The requests come from iothreads: nobody kicks for them.
    const auto held = [&] {
      loop().block().notify();
      return injector().suspended("held") == all;
    };
    MUST(loop().waiter().until(gs(), held) ? ok() : fail(ErrorKind::kTimeout, "held"));
  }
  block::Blkdebug& injector() {
    return dynamic_cast<block::Blkdebug&>(graph().find(gs(), "n0")->driver());
  }
  void turn_until(const std::function<bool()>& done) {
    bql.assert_held();
    while (!done()) loop().turn();
  }
  void store(uint64_t at, uint64_t value) { io_->store({at}, value, 4); }
  bool leaving() {
    bql.assert_held();
    return hotplug_->query().size() == 1 && !hotplug_->query()[0].reason.empty();
  }
  devices::PciBus& bus() { return machine_->bus(); }
  devices::AcpiPciHotplug& registers() { return *registers_; }
  UserDevices& user_devices() { return *devices_; }

  std::vector<std::string> events;

 private:
  std::unique_ptr<rhea::test::VirtioMachine> machine_;
  std::shared_ptr<devices::AcpiPciHotplug> registers_;
  memory::MemoryRegion io_root_{"io", uint64_t{1} << 16};
  std::optional<memory::AddressSpace> io_;
  std::unique_ptr<UserDevices> devices_;
  std::unique_ptr<Hotplug> hotplug_;
};

const std::vector<std::string> kDeleted{"DEVICE_DELETED /machine/peripheral/vd0/virtio-backend",
                                        "DEVICE_DELETED vd0"};

/// A vCPU that ejects slot 5 and stays in its read section until it is told to leave it.
class Vcpu {
 public:
  explicit Vcpu(Fixture& fixture)
      : thread_(MUST(Thread::start("vcpu", [this, &fixture] {
          RcuReadGuard section;
          fixture.store(kEject, 1 << 5);
          stored_ = true;
          fixture.loop().service().notify();
          leave_.acquire();
        }))) {}
  ~Vcpu() { thread_.join(); }
  bool stored() const { return stored_; }
  void leave() { leave_.release(); }

 private:
  std::atomic<bool> stored_{false};
  std::binary_semaphore leave_{0};
  Thread thread_;
};

}  // namespace

TEST_CASE("T004a: a vCPU's write ejects a disk with requests under way, and main ends it",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  const int rounds = test::sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog watchdog("the eject of a busy disk", kPatience);
    f.plug();
    f.make_busy(4);
    std::optional<Vcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored() && f.leaving(); });
    REQUIRE(f.bus().device_at(5) != nullptr);
    CHECK(f.events.empty());
    CHECK(f.injector().resume("held") == kQueues * 4);
    // The vCPU still stands in its section: nothing of this waits for it.
    f.turn_until([&] { return !f.events.empty(); });
    CHECK(f.events == kDeleted);
    CHECK(f.bus().device_at(5) == nullptr);
    f.events.clear();
    // All names are free at once; the next round's device comes while the last one's memory is
    // held.
    if (round % 2 == 0) {
      f.plug();
      f.store(kEject, 1 << 5);
      f.turn_until([&] { return !f.events.empty(); });
      CHECK(f.events == kDeleted);
      f.events.clear();
    }
    vcpu->leave();
    vcpu.reset();
  }
}

TEST_CASE("T004a: a disk is taken off its bus inside the read section of the eject's write",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  const int rounds = test::sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog watchdog("an eject in its own section", kPatience);
    f.plug();
    f.make_busy(4);
    std::atomic<bool> in_section{false};
    std::shared_ptr<devices::PciDevice> device;
    // What main does later, as far as it is legal on a vCPU: views change, listeners hear.
    f.registers().set_eject([&](const devices::AcpiPciHotplug::Eject& eject) {
      bql.assert_held();
      in_section = rcu.in_read_section() && eject.slots == 1U << 5;
      device = f.bus().remove(*f.bus().device_at(5));
    });
    std::optional<Vcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored(); });
    CHECK(in_section);
    CHECK(f.bus().device_at(5) == nullptr);
    f.registers().set_eject(nullptr);
    CHECK(f.injector().resume("held") == kQueues * 4);
    // The rest is main's: with the requests ended nothing waits, the vCPU's section least of all.
    MUST(f.bus().add(std::exchange(device, nullptr), 5));
    REQUIRE(f.user_devices().remove(*f.user_devices().find("vd0")).has_value());
    vcpu->leave();
    vcpu.reset();
  }
}

TEST_CASE("Hotplug: an eject of an empty slot does not hit what is plugged in before main looks",
          "[vmm][hotplug]") {
  Fixture f;
  bql.assert_held();
  f.store(kEject, 1 << 5);
  f.plug();
  for (int i = 0; i < 5; ++i) {
    f.loop().service().notify();
    f.loop().turn();
  }
  CHECK(f.bus().device_at(5) != nullptr);
  CHECK(f.events.empty());
}

TEST_CASE("Hotplug: a machine ends while a disk waits for its requests to leave",
          "[vmm][hotplug]") {
  test::Watchdog watchdog("the end of a machine", kPatience);
  Fixture f;
  bql.assert_held();
  f.plug();
  f.make_busy(1);
  f.store(kEject, 1 << 5);
  f.turn_until([&] { return f.leaving(); });
  CHECK(f.injector().resume("held") == kQueues);
}
