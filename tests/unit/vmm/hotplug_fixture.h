// A machine without a guest whose devices are plugged in and pulled, for tests of hot-plug.
#pragma once

#include <atomic>
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
#include "tests/support/virtio_guest.h"
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
  ~HotplugFixture() {
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
    OptionReader reader(MUST(parse_options(options)));
    vmm::DeviceConfig config;
    config.driver = MUST(reader.take_required("driver"));
    config.id = MUST(reader.take_required("id"));
    config.options = reader.take_rest();
    MUST(hotplug_->add(config));
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

}  // namespace rhea::test
