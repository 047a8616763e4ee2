// run_vm: builds the machine that a VmConfig describes and runs it to its end.
#pragma once

#include <string>

#include "util/error.h"
#include "vmm/config.h"
#include "vmm/daemonize.h"

namespace rhea::vmm {

/// How a machine ended.
struct VmEnd {
  int status = 0;  ///< the process's
  /// Set if a disk did not answer: why. Threads then still use what the machine was made of, and
  /// the process has to end without running another destructor.
  std::string left_behind;
};

/// Builds, runs and takes down the machine. Calls
/// `ready.notify()` once all sockets listen, before the guest's first instruction.
/// Thread: main, with no other thread running.
/// Errors: the machine could not be built; the message is one line, "-OPT VALUE: reason" where an
/// option is to blame.
Result<VmEnd> run_vm(const VmConfig& config, ReadyNotifier& ready);

}  // namespace rhea::vmm
