// info pci, info qtree and info qom-tree.
#include <algorithm>
#include <utility>

#include "vmm/hmp/rows.h"

namespace rhea::vmm::hmp {
namespace {

std::string text_of(const ReplyJson& json, const char* member) {
  const auto at = json.find(member);
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

unsigned number_of(const ReplyJson& json, const char* member) {
  return json.at(member).get<unsigned>();
}

std::string class_name(const ReplyJson& device) {
  const ReplyJson& info = device.at("class_info");
  return info.contains("desc") ? text_of(info, "desc")
                               : fmt::format("Class {:04x}", number_of(info, "class"));
}

/// "0xfe000000 [0xfe001fff]", or its size while the guest has given it no address.
std::string range_text(const ReplyJson& region, unsigned digits) {
  const auto size = region.at("size").get<uint64_t>();
  if (region.at("address").is_number_unsigned()) {
    const auto address = region.at("address").get<uint64_t>();
    return fmt::format("at 0x{:0{}x} [0x{:0{}x}]", address, digits, address + size - 1, digits);
  }
  return fmt::format("of {} bytes, not mapped", size);
}

std::string region_text(const ReplyJson& region) {
  if (text_of(region, "type") == "io") return fmt::format("I/O {}", range_text(region, 4));
  return fmt::format("{} bit{} memory {}", region.at("mem_type_64").get<bool>() ? 64 : 32,
                     region.at("prefetch").get<bool>() ? " prefetchable" : "",
                     range_text(region, 8));
}

std::string ids_text(const ReplyJson& device, const char* of, const char* model) {
  const ReplyJson& id = device.at("id");
  return fmt::format("{:04x}:{:04x}", number_of(id, of), number_of(id, model));
}

std::string pci_device_text(const ReplyJson& device) {
  std::string text = fmt::format("  Bus  {}, device {:3}, function {}:\n", number_of(device, "bus"),
                                 number_of(device, "slot"), number_of(device, "function"));
  text += fmt::format("    {}: PCI device {}\n", class_name(device),
                      ids_text(device, "vendor", "device"));
  text +=
      fmt::format("      PCI subsystem {}\n", ids_text(device, "subsystem-vendor", "subsystem"));
  if (const unsigned pin = number_of(device, "irq_pin"); pin > 0) {
    text += fmt::format("      IRQ {}, pin {}\n", number_of(device, "irq"),
                        static_cast<char>('A' + pin - 1));
  }
  for (const ReplyJson& region : device.at("regions")) {
    text += fmt::format("      BAR{}: {}.\n", number_of(region, "bar"), region_text(region));
  }
  return text + fmt::format("      id \"{}\"\n", text_of(device, "qdev_id"));
}

/// An object of the tree.
struct Object {
  std::string path, type;
};

/// The objects right below a path; none if there is no such path.
std::vector<Object> children_of(const HumanMonitor& monitor, const std::string& path) {
  const QmpResult list = monitor.ask("qom-list", {{"path", path}});
  std::vector<Object> children;
  if (!list.has_value()) return children;
  for (const ReplyJson& row : *list) {
    constexpr std::string_view kChild = "child<";
    std::string type = text_of(row, "type");
    if (!type.starts_with(kChild)) continue;
    type = type.substr(kChild.size(), type.size() - kChild.size() - 1);
    children.push_back({.path = fmt::format("{}/{}", path == "/" ? "" : path, text_of(row, "name")),
                        .type = std::move(type)});
  }
  return children;
}

ReplyJson value_of(const HumanMonitor& monitor, const std::string& path, const std::string& name) {
  const QmpResult value = monitor.ask("qom-get", {{"path", path}, {"property", name}});
  return value.has_value() ? *value : ReplyJson();
}

std::string last_step(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string indent(size_t depth) { return std::string(2 * depth, ' '); }

/// "name = value" for each property that is none of its place in the tree.
std::string properties_text(const HumanMonitor& monitor, const std::string& path, size_t depth) {
  const QmpResult list = monitor.ask("qom-list", {{"path", path}});
  std::string text;
  if (!list.has_value()) return text;
  for (const ReplyJson& row : *list) {
    const std::string name = text_of(row, "name");
    if (name == "type" || name == "addr" || text_of(row, "type").starts_with("child<")) continue;
    std::string value;
    append_json(value, value_of(monitor, path, name));
    text += fmt::format("{}{} = {}\n", indent(depth), name == "legacy-addr" ? "addr" : name, value);
  }
  return text;
}

/// A part that a device carries on a bus of its own: virtio-blk-device on virtio-bus.
std::string part_text(const HumanMonitor& monitor, const Object& part, size_t depth) {
  return fmt::format("{}bus: {}-bus\n{}dev: {}, id \"\"\n", indent(depth),
                     part.type.substr(0, part.type.find('-')), indent(depth + 1), part.type) +
         properties_text(monitor, part.path, depth + 2);
}

/// All that -device and device_add made.
std::vector<Object> user_devices(const HumanMonitor& monitor) {
  std::vector<Object> all = children_of(monitor, "/machine/peripheral");
  const auto anonymous = children_of(monitor, "/machine/peripheral-anon");
  all.insert(all.end(), anonymous.begin(), anonymous.end());
  return all;
}

std::string id_of(const Object& device) {
  return device.path.starts_with("/machine/peripheral/") ? last_step(device.path) : "";
}

std::string device_text(const HumanMonitor& monitor, const std::vector<Object>& devices,
                        const Object& device, size_t depth) {
  std::string text =
      fmt::format("{}dev: {}, id \"{}\"\n", indent(depth), device.type, id_of(device));
  text += properties_text(monitor, device.path, depth + 1);
  for (const Object& part : children_of(monitor, device.path)) {
    text += part_text(monitor, part, depth + 1);
  }
  // Buses that it brought along are called after it: "scsi0.0".
  const std::string bus = fmt::format("{}.0", id_of(device));
  bool named = false;
  for (const Object& other : devices) {
    if (id_of(device).empty() || value_of(monitor, other.path, "bus") != bus) continue;
    if (!std::exchange(named, true)) text += fmt::format("{}bus: {}\n", indent(depth + 1), bus);
    text += device_text(monitor, devices, other, depth + 2);
  }
  return text;
}

/// The device in a slot, or none if the board made it.
const Object* in_slot(const HumanMonitor& monitor, const std::vector<Object>& devices,
                      unsigned slot) {
  const std::string address = fmt::format("{:02x}.0", slot);
  const auto at = std::ranges::find_if(devices, [&](const Object& device) {
    return value_of(monitor, device.path, "legacy-addr") == address;
  });
  return at == devices.end() ? nullptr : &*at;
}

std::string tree_text(const HumanMonitor& monitor, const Object& object, size_t depth) {
  std::string text = fmt::format(
      "{}{} ({})\n", indent(depth),
      depth == 0 ? object.path : fmt::format("/{}", last_step(object.path)), object.type);
  for (const Object& child : children_of(monitor, object.path)) {
    text += tree_text(monitor, child, depth + 1);
  }
  return text;
}

}  // namespace

Output info_pci(const HumanMonitor& monitor, const Given&) {
  const QmpResult buses = monitor.ask("query-pci");
  if (!buses.has_value()) return std::unexpected(buses.error());
  std::string text;
  for (const ReplyJson& bus : *buses) {
    for (const ReplyJson& device : bus.at("devices")) text += pci_device_text(device);
  }
  return text;
}

Output info_qtree(const HumanMonitor& monitor, const Given&) {
  const QmpResult buses = monitor.ask("query-pci");
  if (!buses.has_value()) return std::unexpected(buses.error());
  const std::vector<Object> devices = user_devices(monitor);
  std::string text = "bus: main-system-bus\n  dev: i440FX-pcihost, id \"\"\n    bus: pci.0\n";
  constexpr size_t kDepth = 3;  // below pci.0
  for (const ReplyJson& bus : *buses) {
    for (const ReplyJson& pci : bus.at("devices")) {
      const unsigned slot = number_of(pci, "slot");
      if (const Object* device = in_slot(monitor, devices, slot)) {
        text += device_text(monitor, devices, *device, kDepth);
      } else {
        text += fmt::format("{}dev: {}, id \"\"\n", indent(kDepth), class_name(pci));
      }
      text += fmt::format("{}class {}, addr {:02x}:{:02x}.{}, pci id {}\n", indent(kDepth + 1),
                          class_name(pci), number_of(pci, "bus"), slot, number_of(pci, "function"),
                          ids_text(pci, "vendor", "device"));
      for (const ReplyJson& region : pci.at("regions")) {
        text += fmt::format("{}bar {}: {}\n", indent(kDepth + 1), number_of(region, "bar"),
                            region_text(region));
      }
    }
  }
  return text;
}

Output info_qom_tree(const HumanMonitor& monitor, const Given& given) {
  const auto typed = given.find("path");
  const std::string path = typed != given.end() ? typed->second : "/machine";
  const QmpResult type = monitor.ask("qom-get", {{"path", path}, {"property", "type"}});
  if (!type.has_value()) return std::unexpected(type.error());
  return tree_text(monitor, {.path = path, .type = type->get<std::string>()}, 0);
}

}  // namespace rhea::vmm::hmp
