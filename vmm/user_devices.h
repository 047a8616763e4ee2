// UserDevices: the devices that -device asked for.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/pci_bus.h"
#include "util/error.h"
#include "vmm/config.h"
#include "vmm/device_bus.h"
#include "vmm/device_request.h"
#include "vmm/device_table.h"
#include "vmm/pci_device_bus.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// One of them, in its place.
class UserDevice {
 public:
  /// What it was made from.
  const DeviceRequest& request() const noexcept { return *request_; }
  // See BusDevice.
  std::optional<unsigned> hotplug_slot() const REQUIRES(bql) { return place_->hotplug_slot(); }
  void prepare_to_leave(std::function<void()> look) REQUIRES(bql) {
    place_->prepare_to_leave(std::move(look));
  }
  bool idle() const REQUIRES(bql) { return place_->idle(); }
  void stay() REQUIRES(bql) { place_->stay(); }
  devices::Device* saved() const { return place_->saved(); }
  std::string settings() const REQUIRES(bql) { return place_->settings(); }

 private:
  friend class UserDevices;
  UserDevice(const DeviceBus& bus, std::unique_ptr<DeviceRequest> request)
      : bus_(bus), request_(std::move(request)) {}

  const DeviceBus& bus_;
  const std::unique_ptr<DeviceRequest> request_;  // what the device took: it goes behind that
  std::unique_ptr<BusDevice> place_;
};

/// Makes devices, plugs them in, and takes them out again. They form a tree: a device may bring
/// buses along, on which others sit.
///
/// Thread: main, service context, BQL held. Owns: the devices, and what they took from the machine.
/// Invariants: ids differ; a device goes after what sits on its buses, and the last made first.
/// Errors: texts are QEMU's where it has one.
class UserDevices final : public VmObserver {
 public:
  /// What is made is a row of `table`; `pci` outlives this.
  UserDevices(const DeviceHost& host, devices::PciBus& pci,
              std::span<const DeviceRow> table = device_table());
  ~UserDevices() override;
  UserDevices(const UserDevices&) = delete;
  UserDevices& operator=(const UserDevices&) = delete;

  /// Makes, realizes and plugs in a device. Errors: nothing of it is left then.
  Result<UserDevice*> add(const DeviceConfig& config) REQUIRES(bql);
  /// Takes a device out with all that sit on its buses, and gives back what they had: their ids,
  /// disks and iothreads may be used at once. Main, at the top. Errors: as BusDevice::leave(); all
  /// are where they were then.
  Result<void> remove(UserDevice& device) REQUIRES(bql);
  /// What remove() takes out, in its order: the device itself is the last.
  std::vector<UserDevice*> leaving_with(UserDevice& device) const;
  /// The oldest request of these, for messages; empty if there is none. Polls.
  std::string under_way(UserDevice& device) const REQUIRES(bql);
  /// They ask for nothing any more, until they go. For the machine's end.
  void silence() REQUIRES(bql);
  /// By id, or by path ("/machine/peripheral-anon/device[0]"); null if there is none.
  UserDevice* find(std::string_view name) const noexcept;
  /// By BusDevice::hotplug_slot(); null if there is none. Any thread.
  UserDevice* at_slot(unsigned slot) const REQUIRES(bql);

  /// In the order of making.
  std::vector<const UserDevice*> all() const;
  /// Where it sits in the machine, whatever it is called: "pci/04.0", "pci/04.0/scsi/0:1:0".
  std::string location(const UserDevice& device) const;
  /// What each was made from, in the order of making.
  std::vector<const DeviceRequest*> requests() const;

  void stopped() override;
  void resumed() override;

 private:
  Result<DeviceBus*> take_bus(const DeviceRow& row, OptionReader& options) REQUIRES(bql);
  std::vector<DeviceBus*> buses();
  std::string new_path(const std::string& id);
  void unplug(UserDevice& device) REQUIRES(bql);
  void append_leaving(UserDevice& device, std::vector<UserDevice*>& leaving) const;

  const DeviceHost host_;
  PciDeviceBus pci_;
  const std::span<const DeviceRow> table_;
  std::vector<std::unique_ptr<UserDevice>> devices_;
  unsigned next_anonymous_ = 0;
  unsigned next_bus_ = 0;  // of a device without an id
  bool running_ = false;
};

}  // namespace rhea::vmm
