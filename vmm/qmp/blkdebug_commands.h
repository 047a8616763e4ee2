// The commands by which a test lets requests go that a blkdebug node holds: x-blkdebug-suspended,
// x-blkdebug-resume.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// Both take a node's name and the tag of its rules' `suspend`, and answer how many requests they
/// found. `loop` and `storage` outlive the table's use.
void add_blkdebug_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage);

}  // namespace rhea::vmm
