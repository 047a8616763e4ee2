// The commands that change the block graph: blockdev-add, -del and -reopen, block_resize,
// x-blockdev-set-iothread.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// `loop` and `storage` outlive the table's use.
void add_block_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage);

}  // namespace rhea::vmm
