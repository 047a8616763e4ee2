// getfd and closefd: names for the descriptors that a client passes.
#pragma once

#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// Each monitor has names of its own: the NamedFds that its commands' handlers are given.
void add_fd_commands(QmpCommandTable& table);

}  // namespace rhea::vmm
