// DeviceBus and BusDevice: where the devices of -device sit.
//
// A kind of bus is added by one implementation of each: UserDevices knows no other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "devices/device.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

class DeviceRequest;
struct DeviceRow;

enum class BusKind : uint8_t { kIsa, kPci, kScsi };
/// QEMU's name: "PCI".
std::string_view to_string(BusKind kind) noexcept;

/// A device in its place on a bus.
///
///   made -> plug() -> [prepare_to_leave() -> idle() -> leave()] -> unplug() -> destroyed
///                                 |           |         | fails
///                                 +-----------+- stay() +
///
/// Thread: main, service context, BQL held. Owns: a share of the device.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  BusDevice(const BusDevice&) = delete;
  BusDevice& operator=(const BusDevice&) = delete;

  /// Realizes the device and shows it to the guest. Errors: nothing of it is left there then.
  virtual Result<void> plug() REQUIRES(bql) = 0;

  // Leaving a machine that runs, see PciDevice.
  virtual void prepare_to_leave(std::function<void()> look) REQUIRES(bql) = 0;
  virtual bool idle() const REQUIRES(bql) = 0;
  /// With it what sits on its buses comes to rest. Main, at the top.
  virtual Result<void> leave() REQUIRES(bql) = 0;
  virtual void stay() REQUIRES(bql) = 0;

  /// Hides the device from the guest and unrealizes it. Without leave() it waits for requests as
  /// long as they take. Main, at the top.
  virtual void unplug() REQUIRES(bql) = 0;
  /// By which the guest is asked to let the device go; none: it need not be asked.
  virtual std::optional<unsigned> hotplug_slot() const REQUIRES(bql) = 0;

  /// Where on its bus it sits, whatever it is called: "04.0".
  virtual std::string location() const = 0;
  /// What a migration saves and loads; null: the device whose bus this is takes care of it.
  virtual devices::Device* saved() const = 0;
  /// What has to be equal where it is loaded, whoever takes care of it; see Device.
  virtual std::string settings() const REQUIRES(bql) = 0;

 protected:
  BusDevice() = default;
};

/// A bus of the machine, or one that a device brings along.
///
/// Thread: main, service context, BQL held. Errors: texts are QEMU's.
class DeviceBus {
 public:
  virtual ~DeviceBus() = default;
  DeviceBus(const DeviceBus&) = delete;
  DeviceBus& operator=(const DeviceBus&) = delete;

  virtual BusKind kind() const noexcept = 0;
  /// What bus= says: "pci.0".
  virtual const std::string& name() const noexcept = 0;
  /// Whether a device that does not care where finds a place.
  virtual bool has_room() const REQUIRES(bql) = 0;
  /// Makes a device of `row`, which is of this kind, for the place that the request's options name.
  /// It can be plugged in until another has been. Errors: the place; the driver's.
  virtual Result<std::unique_ptr<BusDevice>> make(const DeviceRow& row, DeviceRequest& request)
      REQUIRES(bql) = 0;

 protected:
  DeviceBus() = default;
};

}  // namespace rhea::vmm
