// query-block, query-named-block-nodes and query-blockstats.
#pragma once

#include "util/main_loop.h"
#include "vmm/qmp/command.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// `loop` and `storage` outlive the table's use.
void add_block_queries(QmpCommandTable& table, MainLoop& loop, Storage& storage);

}  // namespace rhea::vmm
