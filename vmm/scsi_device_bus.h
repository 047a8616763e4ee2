// ScsiDeviceBus: the SCSI bus of a host adapter, for -device.
#pragma once

#include "devices/scsi/scsi_bus.h"
#include "vmm/device_bus.h"

namespace rhea::vmm {

/// Thread: see DeviceBus. `bus` outlives it.
class ScsiDeviceBus final : public DeviceBus {
 public:
  explicit ScsiDeviceBus(devices::ScsiBus& bus) : bus_(bus) {}

  BusKind kind() const noexcept override { return BusKind::kScsi; }
  const std::string& name() const noexcept override { return bus_.name(); }
  bool has_room() const override REQUIRES(bql);
  Result<std::unique_ptr<BusDevice>> make(const DeviceRow& row, DeviceRequest& request) override
      REQUIRES(bql);

 private:
  devices::ScsiBus& bus_;
};

}  // namespace rhea::vmm
