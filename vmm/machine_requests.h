// MachineRequests: what a device may ask of the machine from inside a register write.
#pragma once

#include "util/bql.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Latches, asks the vCPUs to hold, and schedules the rest on main: a register write never resets
/// or stops a machine on a vCPU's stack.
/// Thread: any with the BQL; never blocks.
class MachineRequests {
 public:
  virtual ~MachineRequests() = default;
  virtual void request_reset(Cause cause) REQUIRES(bql) = 0;
  virtual void request_shutdown(Cause cause) REQUIRES(bql) = 0;
  /// A disk's request failed: tells the observers, and stops the machine if that is the action.
  /// Main, service context.
  virtual void disk_error(const DiskError& error) REQUIRES(bql) = 0;
};

}  // namespace rhea::vmm
