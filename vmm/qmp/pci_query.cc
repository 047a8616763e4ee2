#include "vmm/qmp/pci_query.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "util/bql.h"

namespace rhea::vmm {
namespace {

using devices::BarKind;
using devices::PciDevice;
using devices::PciReg;

struct ClassName {
  uint16_t code;
  const char* name;
};
/// Class and subclass [PCI Code and ID Assignment 1.11, 1], as QEMU words them.
constexpr std::array kClasses{
    ClassName{0x0100, "SCSI controller"},    ClassName{0x0101, "IDE controller"},
    ClassName{0x0180, "Storage controller"}, ClassName{0x0200, "Ethernet controller"},
    ClassName{0x0600, "Host bridge"},        ClassName{0x0601, "ISA bridge"},
    ClassName{0x0604, "PCI bridge"},         ClassName{0x0780, "Communication controller"}};

ReplyJson class_json(const PciDevice& device) REQUIRES(bql) {
  // The register's lowest byte is the programming interface.
  const uint32_t code = device.config_value(PciReg::kClass, 3) >> 8;
  ReplyJson json;
  json["class"] = code;
  const auto name = std::ranges::find(kClasses, code, &ClassName::code);
  if (name != kClasses.end()) json["desc"] = name->name;
  return json;
}

ReplyJson region_json(const PciDevice::BarView& bar) {
  ReplyJson json;
  const bool io = bar.kind == BarKind::kIo;
  if (!io) {
    json["prefetch"] = bar.kind == BarKind::kMemory64Prefetchable;
    json["mem_type_64"] = bar.kind != BarKind::kMemory32;
  }
  json["bar"] = bar.index;
  json["size"] = bar.size_bytes;
  if (bar.mapped_at) {
    json["address"] = *bar.mapped_at;
  } else {
    json["address"] = -1;
  }
  json["type"] = io ? "io" : "memory";
  return json;
}

ReplyJson device_json(const PciDevice& device, const std::string& id) REQUIRES(bql) {
  ReplyJson json;
  json["irq_pin"] = device.interrupt_pin();
  json["bus"] = 0;
  json["qdev_id"] = id;
  if (device.interrupt_pin() != 0) json["irq"] = device.config_value(PciReg::kInterruptLine, 1);
  json["slot"] = device.slot();
  json["class_info"] = class_json(device);
  json["id"] = {{"device", device.config_value(PciReg::kDeviceId, 2)},
                {"subsystem-vendor", device.config_value(PciReg::kSubsystemVendorId, 2)},
                {"vendor", device.config_value(PciReg::kVendorId, 2)},
                {"subsystem", device.config_value(PciReg::kSubsystemId, 2)}};
  json["function"] = 0;
  json["regions"] = ReplyJson::array();
  for (const PciDevice::BarView& bar : device.bars()) json["regions"].push_back(region_json(bar));
  return json;
}

/// What the user calls it; empty for the board's own, and for those without a name.
std::string id_of(const PciDevice& device, const UserDevices& devices) {
  const auto requests = devices.requests();
  const auto at = std::ranges::find(requests, device.id(), &DeviceRequest::name);
  return at == requests.end() ? std::string() : (*at)->id();
}

}  // namespace

void add_pci_query(QmpCommandTable& table, const devices::PciBus& bus, const UserDevices& devices) {
  table.add({"query-pci", {}, [&bus, &devices](const Json&) -> QmpResult {
               bql.assert_held();
               ReplyJson list = ReplyJson::array();
               for (unsigned slot = 0; slot < devices::PciBus::kSlots; ++slot) {
                 const PciDevice* device = bus.device_at(slot);
                 if (device != nullptr)
                   list.push_back(device_json(*device, id_of(*device, devices)));
               }
               ReplyJson json;
               json["bus"] = 0;
               json["devices"] = std::move(list);
               return ReplyJson::array({std::move(json)});
             }});
}

}  // namespace rhea::vmm
