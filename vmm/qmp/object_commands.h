// object-add, object-del and query-iothreads.
#pragma once

#include "util/main_loop.h"
#include "vmm/object_table.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// `loop` and `objects` outlive the table's use.
void add_object_commands(QmpCommandTable& table, MainLoop& loop, ObjectTable& objects);

}  // namespace rhea::vmm
