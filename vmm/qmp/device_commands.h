// device_add, device_del, x-query-hotplug, x-forbid-hotplug and x-allow-hotplug.
#pragma once

#include "vmm/hotplug.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// `hotplug` outlives the table's use.
void add_device_commands(QmpCommandTable& table, Hotplug& hotplug);

}  // namespace rhea::vmm
