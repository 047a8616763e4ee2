// -device scsi-hd and scsi-cd: their properties, and what is made of them.
#pragma once

#include <memory>
#include <span>

#include "devices/scsi/scsi_unit.h"
#include "util/error.h"
#include "vmm/device_table.h"

namespace rhea::vmm {

std::span<const DeviceProperty> scsi_hd_properties();
std::span<const DeviceProperty> scsi_cd_properties();
/// Errors: texts are QEMU's.
Result<std::shared_ptr<devices::ScsiUnit>> make_scsi_hd(DeviceRequest& request,
                                                        const devices::ScsiAddress& address);
/// It may have no drive=: it is empty then.
Result<std::shared_ptr<devices::ScsiUnit>> make_scsi_cd(DeviceRequest& request,
                                                        const devices::ScsiAddress& address);

}  // namespace rhea::vmm
