// A machine without a guest whose devices are plugged in and pulled, for tests of hot-plug.
#pragma once

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <semaphore>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block/drivers/blkdebug.h"
#include "devices/acpi_pci_hotplug.h"
#include "tests/support/size.h"
#include "tests/support/virtio_guest.h"
#include "tests/support/watchdog.h"
#include "tests/unit/vmm/storage_fixture.h"
#include "util/rcu.h"
#include "util/thread.h"
#include "vmm/hotplug.h"

namespace rhea::test {

/// RAM, a bus, the hot-plug registers and what they lead to; a client for a guest.
class HotplugFixture : public StorageFixture {
 public:
  static constexpr uint64_t kEject = 0x08;
  static constexpr auto kPatience = std::chrono::seconds(5);  // of a watchdog, too

  explicit HotplugFixture(std::string_view storage_options) : StorageFixture(storage_options) {
    bql.assert_held();
    machine_ = std::make_unique<VirtioMachine>();
    registers_ = std::make_shared<devices::AcpiPciHotplug>("hotplug", [] {});
    MUST(registers_->realize());
    io_root_.add(registers_->io(), 0);
    io_.emplace("io", io_root_);
    devices_ = std::make_unique<vmm::UserDevices>(vmm::DeviceHost{.loop = loop(),
                                                                  .storage = storage(),
                                                                  .memory = machine_->space(),
                                                                  .msi = machine_->msi()},
                                                  machine_->bus());
    devices_->resumed();
    hotplug_ =
        std::make_unique<vmm::Hotplug>(vmm::Hotplug::Parts{.service = loop().service(),
                                                           .devices = *devices_,
                                                           .registers = *registers_,
                                                           .timers = loop().service().timers(),
                                                           .patience = kPatience});
    hotplug_->set_publisher([this](std::string_view event, const vmm::ReplyJson& data) {
      const auto& name = data.contains("device") ? data["device"] : data["path"];
      events.push_back(std::string(event) + " " + name.get<std::string>());
    });
  }
  virtual ~HotplugFixture() {
    bql.assert_held();
    hotplug_.reset();
    devices_.reset();
    io_root_.remove(registers_->io());
    registers_->unrealize();
    io_.reset();
    machine_.reset();
  }

  /// As -device would: "driver=virtio-blk-pci,id=vd0,..".
  void plug(std::string_view options) {
    bql.assert_held();
    MUST(hotplug_->add(config_of(options)));
  }
  /// The same, of a machine that starts with it.
  void start_with(std::string_view options) {
    bql.assert_held();
    MUST(devices_->add(config_of(options)));
  }
  /// device_del.
  Result<void> ask_for(std::string_view name) {
    bql.assert_held();
    return hotplug_->request_removal(name);
  }
  std::vector<vmm::Hotplug::Status> query() {
    bql.assert_held();
    return hotplug_->query();
  }
  /// Until the injectors of `nodes` hold `all` requests.
  void wait_until_held(std::initializer_list<const char*> nodes, size_t all) {
    // The requests come from iothreads: nobody kicks for them.
    const auto held = [&] {
      loop().block().notify();
      size_t count = 0;
      for (const char* node : nodes) count += injector(node).suspended("held");
      return count == all;
    };
    MUST(loop().waiter().until(gs(), held) ? ok() : fail(ErrorKind::kTimeout, "held"));
  }
  block::Blkdebug& injector(const char* node) {
    return dynamic_cast<block::Blkdebug&>(graph().find(gs(), node)->driver());
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
  VirtioMachine& machine() { return *machine_; }
  devices::PciBus& bus() { return machine_->bus(); }
  devices::AcpiPciHotplug& registers() { return *registers_; }
  vmm::UserDevices& user_devices() { return *devices_; }

  std::vector<std::string> events;

 private:
  static vmm::DeviceConfig config_of(std::string_view options) {
    OptionReader reader(MUST(parse_options(options)));
    vmm::DeviceConfig config;
    config.driver = MUST(reader.take_required("driver"));
    config.id = MUST(reader.take_required("id"));
    config.options = reader.take_rest();
    return config;
  }

  std::unique_ptr<VirtioMachine> machine_;
  std::shared_ptr<devices::AcpiPciHotplug> registers_;
  memory::MemoryRegion io_root_{"io", uint64_t{1} << 16};
  std::optional<memory::AddressSpace> io_;
  std::unique_ptr<vmm::UserDevices> devices_;
  std::unique_ptr<vmm::Hotplug> hotplug_;
};

/// A vCPU that ejects slot 5 and stays in its read section until it is told to leave it.
class EjectingVcpu {
 public:
  explicit EjectingVcpu(HotplugFixture& fixture)
      : thread_(MUST(Thread::start("vcpu", [this, &fixture] {
          RcuReadGuard section;
          fixture.store(HotplugFixture::kEject, 1 << 5);
          stored_ = true;
          fixture.loop().service().notify();
          leave_.acquire();
        }))) {}
  ~EjectingVcpu() { thread_.join(); }
  bool stored() const { return stored_; }
  void leave() { leave_.release(); }

 private:
  std::atomic<bool> stored_{false};
  std::binary_semaphore leave_{0};
  Thread thread_;
};

/// A device in slot 5 that has requests under way when it is ejected.
class BusyDeviceFixture : public HotplugFixture {
 public:
  using HotplugFixture::HotplugFixture;
  using HotplugFixture::plug;
  virtual void plug() = 0;
  /// Has it hold held() requests.
  virtual void make_busy() = 0;
  virtual size_t held() const = 0;
  /// Lets them go; how many.
  virtual size_t resume() = 0;
  /// What is told as it goes, in order.
  virtual std::vector<std::string> deleted() const = 0;
};

/// A vCPU's write ejects the device, and main ends it.
inline void eject_busy_device(BusyDeviceFixture& f) {
  bql.assert_held();
  const int rounds = sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    Watchdog watchdog("the eject of a busy device", HotplugFixture::kPatience);
    f.plug();
    f.make_busy();
    std::optional<EjectingVcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored() && f.leaving(); });
    REQUIRE(f.bus().device_at(5) != nullptr);
    CHECK(f.events.empty());
    CHECK(f.resume() == f.held());
    // The vCPU still stands in its section: nothing of this waits for it.
    f.turn_until([&] { return !f.events.empty(); });
    CHECK(f.events == f.deleted());
    CHECK(f.bus().device_at(5) == nullptr);
    f.events.clear();
    // All names are free at once; the next round's device comes while the last one's memory is
    // held.
    if (round % 2 == 0) {
      f.plug();
      f.store(HotplugFixture::kEject, 1 << 5);
      f.turn_until([&] { return !f.events.empty(); });
      CHECK(f.events == f.deleted());
      f.events.clear();
    }
    vcpu->leave();
    vcpu.reset();
  }
}

/// The device is taken off its bus inside the read section of the eject's write.
inline void eject_in_its_own_section(BusyDeviceFixture& f) {
  bql.assert_held();
  const int rounds = sized(5, 200);
  for (int round = 0; round < rounds; ++round) {
    Watchdog watchdog("an eject in its own section", HotplugFixture::kPatience);
    f.plug();
    f.make_busy();
    std::atomic<bool> in_section{false};
    std::shared_ptr<devices::PciDevice> device;
    // What main does later, as far as it is legal on a vCPU: views change, listeners hear.
    f.registers().set_eject([&](const devices::AcpiPciHotplug::Eject& eject) {
      bql.assert_held();
      in_section = rcu.in_read_section() && eject.slots == 1U << 5;
      device = f.bus().remove(*f.bus().device_at(5));
    });
    std::optional<EjectingVcpu> vcpu(f);
    f.turn_until([&] { return vcpu->stored(); });
    CHECK(in_section);
    CHECK(f.bus().device_at(5) == nullptr);
    f.registers().set_eject(nullptr);
    CHECK(f.resume() == f.held());
    // The rest is main's: with the requests ended nothing waits, the vCPU's section least of all.
    MUST(f.bus().add(std::exchange(device, nullptr), 5));
    REQUIRE(f.user_devices().remove(*f.user_devices().at_slot(5)).has_value());
    vcpu->leave();
    vcpu.reset();
  }
}

}  // namespace rhea::test
