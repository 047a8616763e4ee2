// A PCI bus and the devices of -device on it, without the machine.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "devices/msi.h"
#include "devices/pci_bus.h"
#include "memory/address_space.h"
#include "tests/unit/vmm/storage_fixture.h"
#include "vmm/user_devices.h"

namespace rhea::test {

/// No machine: nobody takes messages.
struct NoMessages final : devices::MsiRouter {
  Result<std::unique_ptr<devices::MsiVector>> add_vector() override {
    return std::make_unique<Vector>();
  }
  struct Vector final : devices::MsiVector {
    void signal() noexcept override {}
    Result<void> connect(const devices::MsiMessage&) override { return ok(); }
    void disconnect() override {}
    bool pending() override { return false; }
    void clear() override {}
  };
};

/// The BQL is held as long as it lives.
class DevicesFixture : public StorageFixture {
 public:
  explicit DevicesFixture(std::string_view line,
                          std::span<const vmm::DeviceRow> table = vmm::device_table())
      : StorageFixture(line) {
    bql.assert_held();
    space_.emplace("memory", root_);
    bus_.emplace("pci.0", io_, memory_, std::array<devices::IrqLine, devices::PciBus::kWires>{});
    devices_ = std::make_unique<vmm::UserDevices>(
        vmm::DeviceHost{.loop = loop(), .storage = storage(), .memory = *space_, .msi = msi_},
        *bus_, table);
  }
  ~DevicesFixture() { devices_.reset(); }

  /// "no error", or what is wrong with "virtio-blk-pci,...".
  std::string plug(std::string_view value) {
    bql.assert_held();
    OptionReader reader(MUST(parse_options(value, {.implied_key = "driver"})));
    vmm::DeviceConfig config;
    config.driver = MUST(reader.take_required("driver"));
    config.id = MUST(reader.take_string("id")).value_or("");
    config.options = reader.take_rest();
    const auto added = devices_->add(config);
    return added ? "no error" : added.error().message();
  }
  /// "no error", or why the device of that name stays.
  std::string unplug(std::string_view name) {
    bql.assert_held();
    const auto removed = devices_->remove(*devices_->find(name));
    return removed ? "no error" : removed.error().message();
  }
  void unplug_all() { devices_.reset(); }

  devices::PciDevice* at(unsigned slot) {
    bql.assert_held();
    return bus_->device_at(slot);
  }
  devices::PciBus& bus() { return *bus_; }
  vmm::UserDevices& devices() { return *devices_; }

 private:
  memory::MemoryRegion root_{"root", uint64_t{1} << 32}, io_{"io", 1 << 16},
      memory_{"memory", uint64_t{1} << 32};
  std::optional<memory::AddressSpace> space_;
  std::optional<devices::PciBus> bus_;
  NoMessages msi_;
  std::unique_ptr<vmm::UserDevices> devices_;
};

}  // namespace rhea::test
