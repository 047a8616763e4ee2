// The machine as a tree of objects: see vmm/qom.h.
#pragma once

#include "devices/pci_bus.h"
#include "vmm/config.h"
#include "vmm/object_table.h"
#include "vmm/qom.h"
#include "vmm/user_devices.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Whose objects are shown. All outlive the node's use.
struct QomSources {
  const VmConfig& config;
  const VmControl& vm;
  ObjectTable& objects;
  const UserDevices& devices;
  const devices::PciBus& bus;
};

/// The root: /machine with peripheral, peripheral-anon and unattached (the vCPUs), and /objects.
/// Thread: main, service context.
QomNode describe_machine(const QomSources& sources) REQUIRES(bql);

/// The slot of a device of the user's; none if it is not on the bus.
std::optional<unsigned> slot_of(const devices::PciBus& bus, const DeviceRequest& request)
    REQUIRES(bql);

}  // namespace rhea::vmm
