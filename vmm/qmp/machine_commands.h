// The QMP commands that ask for the machine's state or change it.
#pragma once

#include "vmm/qmp/command.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Adds query-status query-kvm query-cpus-fast query-name query-uuid stop cont system_reset
/// system_powerdown quit. `vm` outlives the table.
void add_machine_commands(QmpCommandTable& table, VmControl& vm);

}  // namespace rhea::vmm
