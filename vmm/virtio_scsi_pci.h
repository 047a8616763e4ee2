// -device virtio-scsi-pci: its properties, and what is made of them.
#pragma once

#include <memory>
#include <span>

#include "devices/pci_device.h"
#include "util/error.h"
#include "vmm/device_table.h"

namespace rhea::vmm {

std::span<const DeviceProperty> virtio_scsi_pci_properties();
/// Its bus is "<id>.0", or "scsi.0" without an id. Errors: texts are QEMU's.
Result<std::shared_ptr<devices::PciDevice>> make_virtio_scsi_pci(DeviceRequest& request);

}  // namespace rhea::vmm
