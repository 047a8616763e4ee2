// eject, blockdev-change-medium, and the steps that they are made of: blockdev-open-tray,
// blockdev-close-tray, blockdev-insert-medium, blockdev-remove-medium.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"
#include "vmm/user_devices.h"

namespace rhea::vmm {

/// All outlive the table's use. `devices`: to tell a device without a disk from none; null: there
/// is none.
void add_media_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage,
                        const UserDevices* devices);

/// DEVICE_TRAY_MOVED's data.
ReplyJson tray_json(const Disk& disk, TrayPosition to);

}  // namespace rhea::vmm
