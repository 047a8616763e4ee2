// The devices that -device can make: one row each.
//
// A driver is added by one row in device_table.cc: its properties, for -device DRIVER,help and for
// the check that nothing else is said, and a function that makes the device from a DeviceRequest.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "util/error.h"
#include "vmm/device_request.h"

namespace rhea::devices {
class PciDevice;
}

namespace rhea::vmm {

struct DeviceProperty {
  std::string_view name;
  std::string_view type;  ///< "uint16", "bool", "str": for -device DRIVER,help
  std::string_view help;  ///< may be empty
};

struct DeviceRow {
  std::string_view driver;
  std::string_view bus;  ///< "PCI" or "ISA"
  std::string_view description;
  std::span<const DeviceProperty> properties;
  /// A device that is not realized yet. Null: the board makes it (isa-serial).
  /// Errors: those of its properties.
  Result<std::shared_ptr<devices::PciDevice>> (*make)(DeviceRequest& request);
};

/// All of them, in alphabetical order.
std::span<const DeviceRow> device_table();
/// Null for a name that no driver has.
const DeviceRow* find_device_row(std::string_view driver) noexcept;
/// The same in `table`.
const DeviceRow* find_device_row(std::span<const DeviceRow> table,
                                 std::string_view driver) noexcept;

/// -device help, and -device DRIVER,help.
std::string device_list_help();
std::string device_help(const DeviceRow& row);

}  // namespace rhea::vmm
