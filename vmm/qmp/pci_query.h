// query-pci.
#pragma once

#include "devices/pci_bus.h"
#include "vmm/qmp/command.h"
#include "vmm/user_devices.h"

namespace rhea::vmm {

/// `bus` and `devices`, whose ids are shown, outlive the table's use.
void add_pci_query(QmpCommandTable& table, const devices::PciBus& bus, const UserDevices& devices);

}  // namespace rhea::vmm
