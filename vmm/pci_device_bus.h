// PciDeviceBus: PCI, for -device.
#pragma once

#include "devices/pci_bus.h"
#include "vmm/device_bus.h"

namespace rhea::vmm {

/// Thread: see DeviceBus. `bus` outlives it.
class PciDeviceBus final : public DeviceBus {
 public:
  explicit PciDeviceBus(devices::PciBus& bus) : bus_(bus) {}

  BusKind kind() const noexcept override { return BusKind::kPci; }
  const std::string& name() const noexcept override { return bus_.name(); }
  bool has_room() const override REQUIRES(bql);
  Result<std::unique_ptr<BusDevice>> make(const DeviceRow& row, DeviceRequest& request) override
      REQUIRES(bql);

 private:
  Result<unsigned> take_slot(const DeviceRow& row, DeviceRequest& request) REQUIRES(bql);

  devices::PciBus& bus_;
};

}  // namespace rhea::vmm
