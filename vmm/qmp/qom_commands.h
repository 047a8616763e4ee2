// qom-list, qom-get, qom-set, qom-list-types and device-list-properties.
#pragma once

#include <functional>

#include "vmm/qmp/command.h"
#include "vmm/qom.h"

namespace rhea::vmm {

/// `tree` makes the root, each time a client asks.
void add_qom_commands(QmpCommandTable& table, std::function<QomNode()> tree);

}  // namespace rhea::vmm
