#include "vmm/device_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "util/check.h"
#include "vmm/scsi_disks.h"
#include "vmm/virtio_blk_pci.h"
#include "vmm/virtio_scsi_pci.h"

namespace rhea::vmm {
namespace {

constexpr std::array kIsaSerial{
    DeviceProperty{"chardev", "str", "ID of the chardev to connect"},
    DeviceProperty{"index", "uint32", "0 or 1: which port; else the first that is free"},
};

constexpr std::array kPciPlace{
    DeviceProperty{"addr", "int32", "slot, and function 0 if given: 5, 0x5 or 05.0"},
    DeviceProperty{"bus", "str", "pci.0, the only one"},
};

constexpr std::array kScsiPlace{
    DeviceProperty{"bus", "str", "ADAPTER.0 (default: the first with room)"},
    DeviceProperty{"channel", "uint32", "0, the only one"},
    DeviceProperty{"lun", "uint32", "(default: with scsi-id the first that is free, else 0)"},
    DeviceProperty{"scsi-id", "uint32", "target (default: the first that is free)"},
};

}  // namespace

std::string_view to_string(BusKind kind) noexcept {
  switch (kind) {
    case BusKind::kIsa:
      return "ISA";
    case BusKind::kPci:
      return "PCI";
    case BusKind::kScsi:
      return "SCSI";
  }
  RHEA_UNREACHABLE("bus kind {}", static_cast<unsigned>(kind));
}

std::span<const DeviceProperty> place_properties(BusKind bus) noexcept {
  switch (bus) {
    case BusKind::kIsa:
      return {};
    case BusKind::kPci:
      return kPciPlace;
    case BusKind::kScsi:
      return kScsiPlace;
  }
  RHEA_UNREACHABLE("bus kind {}", static_cast<unsigned>(bus));
}

std::span<const DeviceRow> device_table() {
  static const std::array rows{
      DeviceRow{"isa-serial", BusKind::kIsa, "", kIsaSerial, std::monostate()},
      DeviceRow{"scsi-cd", BusKind::kScsi, "a CD drive", scsi_cd_properties(), make_scsi_cd},
      DeviceRow{"scsi-hd", BusKind::kScsi, "a disk", scsi_hd_properties(), make_scsi_hd},
      DeviceRow{"virtio-blk-pci", BusKind::kPci, "a disk", virtio_blk_pci_properties(),
                make_virtio_blk_pci},
      DeviceRow{"virtio-scsi-pci", BusKind::kPci, "a host adapter for SCSI units",
                virtio_scsi_pci_properties(), make_virtio_scsi_pci},
  };
  return rows;
}

const DeviceRow* find_device_row(std::span<const DeviceRow> table,
                                 std::string_view driver) noexcept {
  const auto row = std::ranges::find(table, driver, &DeviceRow::driver);
  return row == table.end() ? nullptr : &*row;
}

const DeviceRow* find_device_row(std::string_view driver) noexcept {
  return find_device_row(device_table(), driver);
}

std::string device_list_help() {
  std::string text = "Devices:\n";
  for (const DeviceRow& row : device_table()) {
    text += fmt::format("name \"{}\", bus {}", row.driver, to_string(row.bus));
    if (!row.description.empty()) text += fmt::format(", desc \"{}\"", row.description);
    text += '\n';
  }
  return text;
}

std::vector<DeviceProperty> properties_of(const DeviceRow& row) {
  std::vector<DeviceProperty> properties(row.properties.begin(), row.properties.end());
  const auto place = place_properties(row.bus);
  properties.insert(properties.end(), place.begin(), place.end());
  std::ranges::sort(properties, {}, &DeviceProperty::name);
  return properties;
}

std::string parent_type(const DeviceRow& row) {
  std::string type;
  for (const char c : to_string(row.bus))
    type += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return type + "-device";
}

std::string device_help(const DeviceRow& row) {
  std::string text = fmt::format("{} options:\n", row.driver);
  for (const DeviceProperty& property : properties_of(row)) {
    const std::string typed = fmt::format("{}=<{}>", property.name, property.type);
    std::string help(property.help);
    if (!property.fallback.empty()) {
      help += fmt::format("{}(default: {})", help.empty() ? "" : " ", property.fallback);
    }
    text +=
        help.empty() ? fmt::format("  {}\n", typed) : fmt::format("  {:<22} - {}\n", typed, help);
  }
  return text;
}

}  // namespace rhea::vmm
