// run_vm: builds the machine that a VmConfig describes and runs it to its end.
#pragma once

#include "util/error.h"
#include "vmm/config.h"
#include "vmm/daemonize.h"

namespace rhea::vmm {

/// Builds, runs and takes down the machine; returns the process's exit status. Calls
/// `ready.notify()` once all sockets listen, before the guest's first instruction.
/// Thread: main, with no other thread running.
/// Errors: the machine could not be built; the message is one line, "-OPT VALUE: reason" where an
/// option is to blame.
Result<int> run_vm(const VmConfig& config, ReadyNotifier& ready);

}  // namespace rhea::vmm
