// -device virtio-blk-pci: its properties, and what is made of them.
#pragma once

#include <memory>
#include <span>

#include "devices/pci_device.h"
#include "util/error.h"
#include "vmm/device_table.h"

namespace rhea::vmm {

std::span<const DeviceProperty> virtio_blk_pci_properties();
/// Errors: texts are QEMU's.
Result<std::shared_ptr<devices::PciDevice>> make_virtio_blk_pci(DeviceRequest& request);

}  // namespace rhea::vmm
