// UserDevices: the devices that -device asked for.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/pci_bus.h"
#include "util/error.h"
#include "vmm/config.h"
#include "vmm/device_request.h"
#include "vmm/device_table.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Makes devices, plugs them in, and takes them out again.
///
/// Thread: main, service context, BQL held. Owns: a share of each device, and what it took from
/// the machine. Invariants: ids differ; the last made goes first.
/// Errors: texts are QEMU's where it has one.
class UserDevices final : public VmObserver {
 public:
  /// What is made is a row of `table`; `bus` outlives this.
  UserDevices(const DeviceHost& host, devices::PciBus& bus,
              std::span<const DeviceRow> table = device_table());
  ~UserDevices() override;
  UserDevices(const UserDevices&) = delete;
  UserDevices& operator=(const UserDevices&) = delete;

  /// Makes, realizes and plugs in a device. Errors: nothing of it is left then.
  Result<devices::PciDevice*> add(const DeviceConfig& config) REQUIRES(bql);
  /// Takes a device out and gives back what it had: its id, its disks and its iothreads may be used
  /// at once. Waits for its requests. Main, at the top.
  void remove(devices::PciDevice& device) REQUIRES(bql);
  /// By id, or by path ("/machine/peripheral-anon/device[0]"); null if there is none.
  devices::PciDevice* find(std::string_view name) const noexcept;
  /// What a device of this machine was made from; null if it is none of -device's.
  const DeviceRequest* request_of(const devices::PciDevice& device) const noexcept;

  void stopped() override;
  void resumed() override;

 private:
  struct Entry {
    std::unique_ptr<DeviceRequest> request;
    std::shared_ptr<devices::PciDevice> device;
  };
  static void take_out(devices::PciBus& bus, Entry& entry) REQUIRES(bql);
  Result<unsigned> take_slot(OptionReader& options, const DeviceRow& row) REQUIRES(bql);
  std::string new_path(const std::string& id);

  const DeviceHost host_;
  devices::PciBus& bus_;
  const std::span<const DeviceRow> table_;
  std::vector<Entry> entries_;
  unsigned next_anonymous_ = 0;
  bool running_ = false;
};

}  // namespace rhea::vmm
