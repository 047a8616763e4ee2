#include "vmm/qom_machine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "util/check.h"
#include "vmm/iothread_object.h"

namespace rhea::vmm {
namespace {

std::string last_step(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

/// What a property that no reset and no command changes answers to qom-set.
std::function<QmpResult(const Json&)> too_late(const DeviceRequest& request,
                                               const std::string& property) {
  const std::string who =
      request.id().empty() ? "anonymous device" : fmt::format("device '{}'", request.id());
  return [text = fmt::format("Attempt to set property '{}' on {} (type '{}') after it was realized",
                             property, who, request.asked().driver)](const Json&) -> QmpResult {
    return QmpError{.description = text};
  };
}

/// "/objects/io0", by what the device runs on now; empty: on main.
std::string iothread_path(ObjectTable& objects, const DeviceRequest& request) {
  const auto used = request.iothreads();
  if (used.empty()) return "";
  const auto entries = objects.entries();
  const auto at = std::ranges::find_if(
      entries, [&](const ObjectTable::Entry& entry) { return entry.object.get() == used.front(); });
  RHEA_CHECK(at != entries.end(), "{} runs on a thread that is no object", request.name());
  return "/objects/" + at->id;
}

/// What the user asked for, or what it is without; null if neither says.
ReplyJson value_of(const DeviceRequest& request, const DeviceProperty& property) {
  if (const OptionTree* given = request.asked().options.find(property.name)) {
    return option_json(property.type, *given);
  }
  if (!property.fallback.empty()) return property_value(property.type, property.fallback);
  return property.type == "str" ? ReplyJson("") : ReplyJson();
}

void add_place(QomNode& node, const DeviceRequest& request, unsigned slot) {
  constexpr unsigned kFunctionBits = 3;
  node.properties.push_back({.name = "addr",
                             .type = "int32",
                             .value = slot << kFunctionBits,
                             .set = too_late(request, "addr")});
  node.properties.push_back({.name = "legacy-addr",
                             .type = "str",
                             .value = fmt::format("{:02x}.0", slot),
                             .set = too_late(request, "legacy-addr")});
}

QomNode describe_device(const QomSources& sources, const DeviceRequest& request) REQUIRES(bql) {
  const std::string& driver = request.asked().driver;
  QomNode node{.name = last_step(request.path()), .type = driver};
  const DeviceRow* row = find_device_row(driver);
  const auto slot = slot_of(sources.bus, request);
  if (slot) add_place(node, request, *slot);
  for (const DeviceProperty& property :
       row != nullptr ? properties_of(*row) : std::vector<DeviceProperty>()) {
    const std::string name(property.name);
    if (name == "addr") continue;
    const bool is_link = name == "iothread";
    ReplyJson value = value_of(request, property);
    if (is_link) value = iothread_path(sources.objects, request);
    if (name == "bus" && slot) value = sources.bus.name();
    if (value.is_null()) continue;
    node.properties.push_back({.name = name,
                               .type = is_link ? "link<iothread>" : std::string(property.type),
                               .value = std::move(value),
                               .set = too_late(request, name)});
  }
  return node;
}

/// "virtio-blk-device" is what virtio-blk-pci carries.
std::string part_type(std::string driver) {
  if (driver.ends_with("-pci")) driver.replace(driver.size() - 3, 3, "device");
  return driver;
}

void add_devices(QomNode& machine, const QomSources& sources) REQUIRES(bql) {
  QomNode named{.name = "peripheral"};
  QomNode anonymous{.name = "peripheral-anon"};
  for (const DeviceRequest* request : sources.devices.requests()) {
    QomNode& node =
        (request->id().empty() ? anonymous : named).add(describe_device(sources, *request));
    for (const std::string& part : request->parts()) {
      node.add({.name = last_step(part), .type = part_type(request->asked().driver)});
    }
  }
  machine.add(std::move(anonymous));
  machine.add(std::move(named));
}

QomNode describe_unattached(const VmControl& vm) {
  QomNode container{.name = "unattached"};
  for (const VcpuInfo& vcpu : vm.vcpus()) {
    container.add({.name = fmt::format("device[{}]", vcpu.index), .type = "host-x86_64-cpu"});
  }
  return container;
}

std::string_view type_name(MemoryBackendConfig::Type type) {
  switch (type) {
    case MemoryBackendConfig::Type::kRam:
      return "memory-backend-ram";
    case MemoryBackendConfig::Type::kMemfd:
      return "memory-backend-memfd";
    case MemoryBackendConfig::Type::kFile:
      return "memory-backend-file";
  }
  RHEA_UNREACHABLE("memory backend type {}", static_cast<unsigned>(type));
}

QomNode describe_memory(const MemoryBackendConfig& memory) {
  QomNode node{.name = memory.id, .type = std::string(type_name(memory.type))};
  node.properties.push_back({.name = "prealloc", .type = "bool", .value = memory.prealloc});
  node.properties.push_back({.name = "share", .type = "bool", .value = memory.share});
  node.properties.push_back({.name = "size", .type = "int", .value = memory.size_bytes});
  if (memory.type == MemoryBackendConfig::Type::kFile) {
    node.properties.push_back({.name = "mem-path", .type = "string", .value = memory.path});
  }
  return node;
}

}  // namespace

std::optional<unsigned> slot_of(const devices::PciBus& bus, const DeviceRequest& request) {
  for (unsigned slot = 0; slot < devices::PciBus::kSlots; ++slot) {
    const devices::PciDevice* device = bus.device_at(slot);
    if (device != nullptr && device->id() == request.name()) return slot;
  }
  return std::nullopt;
}

QomNode describe_machine(const QomSources& sources) {
  const VmConfig& config = sources.config;
  QomNode root;
  QomNode machine{.name = "machine", .type = config.machine + "-machine"};
  const auto text = [&](const char* name, const std::string& value) {
    machine.properties.push_back({.name = name, .type = "string", .value = value});
  };
  text("kernel", config.kernel.value_or(""));
  text("initrd", config.initrd.value_or(""));
  text("append", config.append);
  machine.properties.push_back({.name = "memory",
                                .type = "MemorySizeConfiguration",
                                .value = {{"size", config.memory.size_bytes}}});
  machine.properties.push_back(
      {.name = "x-unplug-timeout", .type = "int", .value = config.unplug_timeout.count()});
  machine.add(describe_unattached(sources.vm));
  add_devices(machine, sources);
  QomNode& objects = root.add(describe_objects(sources.objects));
  if (!config.memory.id.empty()) objects.add(describe_memory(config.memory));
  root.add(std::move(machine));
  return root;
}

}  // namespace rhea::vmm
