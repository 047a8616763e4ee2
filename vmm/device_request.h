// DeviceRequest: what a driver makes a device from.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/backend.h"
#include "devices/io_error.h"
#include "devices/msi.h"
#include "memory/address_space.h"
#include "util/main_loop.h"
#include "util/option_reader.h"
#include "vmm/config.h"
#include "vmm/device_bus.h"
#include "vmm/disks.h"
#include "vmm/iothread_object.h"
#include "vmm/storage.h"

namespace rhea::vmm {

/// The machine around a device. All of it outlives the device's unrealize().
struct DeviceHost {
  MainLoop& loop;
  Storage& storage;
  memory::AddressSpace& memory;
  devices::MsiRouter& msi;
};

/// What a device does when the machine stops and goes on.
struct RunHooks {
  std::function<void()> stopped, runs;
};

/// One device being made: its options, and what they name. What it took it holds until the device
/// goes: its owner keeps the request beside the device.
///
/// Thread: main, service context, BQL held. Errors: texts are QEMU's where it has one.
class DeviceRequest {
 public:
  /// `id` may be empty; `path` is "/machine/peripheral/vd0".
  DeviceRequest(const DeviceHost& host, std::string id, std::string path, OptionTree options);
  /// The number of the bus of a device without an id, if it brings one along; else 0.
  void set_bus_number(unsigned number) noexcept { bus_number_ = number; }
  /// Gives back what was taken. The device is quiet, or was never realized.
  ~DeviceRequest();
  DeviceRequest(const DeviceRequest&) = delete;
  DeviceRequest& operator=(const DeviceRequest&) = delete;

  const DeviceHost& host() const noexcept { return host_; }
  const std::string& id() const noexcept { return id_; }
  const std::string& path() const noexcept { return path_; }
  /// "vd0", or the path: what errors call the device.
  const std::string& name() const noexcept { return id_.empty() ? path_ : id_; }
  OptionReader& options() noexcept { return options_; }
  /// The paths of its parts, which go with it: "/machine/peripheral/vd0/virtio-backend".
  std::span<const std::string> parts() const noexcept { return parts_; }
  /// The buses that it brings along.
  std::span<const std::unique_ptr<DeviceBus>> buses() const noexcept { return buses_; }
  /// What the user asked for, whole.
  const DeviceConfig& asked() const noexcept { return asked_; }
  void set_asked(DeviceConfig asked) { asked_ = std::move(asked); }
  /// Those that the device runs on, once for each queue or more.
  std::vector<const IoThreadObject*> iothreads() const;

  /// The device has a part of that name; its path.
  const std::string& add_part(std::string_view name);
  /// For a bus of this device: "scsi0.0", or "scsi.3" if it has no id.
  std::string new_bus_name(std::string_view kind) const;
  /// Others may sit on a bus of this device, as long as that is there.
  void add_bus(std::unique_ptr<DeviceBus> bus) { buses_.push_back(std::move(bus)); }
  /// Takes drive=, rerror=, werror= and write-cache=, and claims the disk. Once the device has a
  /// backend it tells the disk. `driver` is what has the property in QEMU ("virtio-blk-device"),
  /// `qdev` what query-block is to call it.
  Result<Disk*> take_disk(std::string_view driver, const std::string& qdev,
                          DiskUse::Medium medium = DiskUse::Medium::kRequired);
  /// Takes iothread=: that thread's context, or main's block context.
  Result<AioContext*> take_iothread();
  /// The context of an iothread that another option names.
  Result<AioContext*> use_iothread(const std::string& id);
  /// The device runs there now and on no other iothread; null is main.
  void now_uses(IoThreadObject* iothread);
  /// As long as the device is there. A machine that is made has stopped.
  void set_run_hooks(RunHooks hooks) { hooks_ = std::move(hooks); }
  const RunHooks& run_hooks() const noexcept { return hooks_; }
  /// The oldest request to its disks, for messages; empty if there is none. Polls.
  std::string under_way() const REQUIRES(bql);

 private:
  const DeviceHost host_;
  const std::string id_, path_;
  OptionReader options_;
  unsigned bus_number_ = 0;
  DeviceConfig asked_;
  std::vector<IoThreadUse> iothreads_;
  std::vector<Disk*> disks_;
  std::vector<std::string> parts_;
  std::vector<std::unique_ptr<DeviceBus>> buses_;
  RunHooks hooks_{.stopped = [] {}, .runs = [] {}};
};

}  // namespace rhea::vmm
