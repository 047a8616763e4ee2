// query-chardev: the character devices, for QMP.
#pragma once

#include <functional>
#include <vector>

#include "vmm/chardev/chardev.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// Adds query-chardev. `list` gives the devices there are when it is asked.
void add_chardev_commands(QmpCommandTable& table,
                          std::function<std::vector<const Chardev*>()> list);

}  // namespace rhea::vmm
