// DeviceBus and BusDevice: where the devices of -device sit.
//
// A kind of bus is added by one implementation of each: UserDevices knows no other.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

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
///   made -> plug() -> [stop()] -> unplug() -> destroyed
///
/// Thread: main, service context, BQL held. Owns: a share of the device.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  BusDevice(const BusDevice&) = delete;
  BusDevice& operator=(const BusDevice&) = delete;

  /// Realizes the device and shows it to the guest. Errors: nothing of it is left there then.
  virtual Result<void> plug() REQUIRES(bql) = 0;
  /// Takes no more requests, and ends those under way. The next is unplug(). Main, at the top.
  /// Errors: one does not end in time; the device goes on as if nothing had been asked then.
  virtual Result<void> stop() REQUIRES(bql) = 0;
  /// Hides the device from the guest and unrealizes it. Without stop() it waits for requests as
  /// long as they take. Main, at the top.
  virtual void unplug() REQUIRES(bql) = 0;
  /// By which the guest is asked to let the device go; none: it need not be asked.
  virtual std::optional<unsigned> hotplug_slot() const REQUIRES(bql) = 0;

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
