// The devices that -device can make: one row each.
//
// A driver is added by one row in device_table.cc: its properties, for -device DRIVER,help and for
// the check that nothing else is said, and a function that makes the device from a DeviceRequest.
// What says where a device goes is the same for all of a bus: place_properties().
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "util/error.h"
#include "vmm/device_bus.h"
#include "vmm/device_request.h"

namespace rhea::devices {
class PciDevice;
class ScsiUnit;
struct ScsiAddress;
}  // namespace rhea::devices

namespace rhea::vmm {

struct DeviceProperty {
  std::string_view name;
  std::string_view type;        ///< "uint16", "bool", "str": for -device DRIVER,help
  std::string_view help;        ///< may be empty
  std::string_view fallback{};  ///< what it is if nobody says; empty: nothing, or it depends
};

struct DeviceRow {
  using MakePci = Result<std::shared_ptr<devices::PciDevice>> (*)(DeviceRequest& request);
  using MakeScsi = Result<std::shared_ptr<devices::ScsiUnit>> (*)(
      DeviceRequest& request, const devices::ScsiAddress& address);

  std::string_view driver;
  BusKind bus;
  std::string_view description;
  std::span<const DeviceProperty> properties;
  /// Makes a device, of the bus's kind, that is not realized yet. None: the board makes it
  /// (isa-serial). Errors: those of its properties.
  std::variant<std::monostate, MakePci, MakeScsi> make;

  bool made_by_board() const noexcept { return std::holds_alternative<std::monostate>(make); }
};

/// All of them, in alphabetical order.
std::span<const DeviceRow> device_table();
/// Null for a name that no driver has.
const DeviceRow* find_device_row(std::string_view driver) noexcept;
/// The same in `table`.
const DeviceRow* find_device_row(std::span<const DeviceRow> table,
                                 std::string_view driver) noexcept;

/// What every device on such a bus takes.
std::span<const DeviceProperty> place_properties(BusKind bus) noexcept;
/// The row's, and what every device on its bus takes, by name.
std::vector<DeviceProperty> properties_of(const DeviceRow& row);
/// "pci-device": the type of everything on the row's bus.
std::string parent_type(const DeviceRow& row);

/// -device help, and -device DRIVER,help.
std::string device_list_help();
std::string device_help(const DeviceRow& row);

}  // namespace rhea::vmm
