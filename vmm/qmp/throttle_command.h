// block_set_io_throttle: limits for a disk.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// `loop` and `storage` outlive the table's use.
void add_throttle_command(QmpCommandTable& table, MainLoop& loop, Storage& storage);
/// The members of BlockDeviceInfo that tell of limits; `group` may be null.
void append_limits(ReplyJson& json, const block::ThrottleGroup* group);

}  // namespace rhea::vmm
