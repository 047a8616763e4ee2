#include "vmm/user_devices.h"

#include <algorithm>
#include <ranges>
#include <utility>

#include "util/check.h"

namespace rhea::vmm {
namespace {

bool has(std::span<const DeviceProperty> properties, std::string_view name) {
  return std::ranges::find(properties, name, &DeviceProperty::name) != properties.end();
}

/// Nothing may be said that the driver does not know; what it knows it takes itself.
Result<void> check_properties(const DeviceRow& row, const OptionTree& options) {
  for (const std::string& key : options.keys()) {
    if (has(place_properties(row.bus), key) || has(row.properties, key)) continue;
    return fail(ErrorKind::kInvalidArgument, "Property '{}.{}' not found", row.driver, key);
  }
  return ok();
}

}  // namespace

UserDevices::UserDevices(const DeviceHost& host, devices::PciBus& pci,
                         std::span<const DeviceRow> table)
    : host_(host), pci_(pci), table_(table) {}

UserDevices::~UserDevices() {
  bql.assert_held();
  // What sits on a bus was made later than the bus.
  while (!devices_.empty()) unplug(*devices_.back());
}

void UserDevices::unplug(UserDevice& device) {
  device.place_->unplug();
  std::erase_if(devices_, [&](const auto& other) { return other.get() == &device; });
}

Result<void> UserDevices::remove(UserDevice& device) {
  TRY(device.place_->leave());
  for (UserDevice* leaving : leaving_with(device)) unplug(*leaving);
  return ok();
}

std::vector<UserDevice*> UserDevices::leaving_with(UserDevice& device) const {
  std::vector<UserDevice*> leaving;
  append_leaving(device, leaving);
  return leaving;
}

void UserDevices::append_leaving(UserDevice& device, std::vector<UserDevice*>& leaving) const {
  for (const auto& other : devices_ | std::views::reverse) {
    const bool sits_on_it = std::ranges::any_of(
        device.request().buses(), [&](const auto& bus) { return bus.get() == &other->bus_; });
    if (sits_on_it) append_leaving(*other, leaving);
  }
  leaving.push_back(&device);
}

std::string UserDevices::under_way(UserDevice& device) const {
  for (const UserDevice* leaving : leaving_with(device)) {
    if (std::string request = leaving->request().under_way(); !request.empty()) return request;
  }
  return {};
}

UserDevice* UserDevices::find(std::string_view name) const noexcept {
  const auto at = std::ranges::find_if(devices_, [&](const auto& device) {
    return !name.empty() && (device->request().id() == name || device->request().path() == name);
  });
  return at != devices_.end() ? at->get() : nullptr;
}

UserDevice* UserDevices::at_slot(unsigned slot) const {
  for (const auto& device : devices_) {
    if (device->hotplug_slot() == slot) return device.get();
  }
  return nullptr;
}

std::vector<const UserDevice*> UserDevices::all() const {
  std::vector<const UserDevice*> all;
  for (const auto& device : devices_) all.push_back(device.get());
  return all;
}

std::string UserDevices::location(const UserDevice& device) const {
  const std::string on_bus = device.bus_.kind() == BusKind::kScsi ? "/scsi/" : "pci/";
  const std::string here = on_bus + device.place_->location();
  for (const auto& other : devices_) {
    const bool brings_it = std::ranges::any_of(
        other->request().buses(), [&](const auto& bus) { return bus.get() == &device.bus_; });
    if (brings_it) return location(*other) + here;
  }
  return here;
}

std::vector<const DeviceRequest*> UserDevices::requests() const {
  std::vector<const DeviceRequest*> all;
  for (const auto& device : devices_) all.push_back(&device->request());
  return all;
}

std::string UserDevices::new_path(const std::string& id) {
  if (!id.empty()) return "/machine/peripheral/" + id;
  return fmt::format("/machine/peripheral-anon/device[{}]", next_anonymous_++);
}

std::vector<DeviceBus*> UserDevices::buses() {
  std::vector<DeviceBus*> all{&pci_};
  for (const auto& device : devices_) {
    for (const auto& bus : device->request().buses()) all.push_back(bus.get());
  }
  return all;
}

Result<DeviceBus*> UserDevices::take_bus(const DeviceRow& row, OptionReader& options) {
  const std::vector<DeviceBus*> all = buses();
  if (const auto name = TRY(options.take_string("bus"))) {
    const auto at = std::ranges::find(all, *name, &DeviceBus::name);
    if (at == all.end()) return fail(ErrorKind::kNotFound, "Bus '{}' not found", *name);
    if ((*at)->kind() == row.bus) return *at;
    return fail(ErrorKind::kInvalidArgument, "Device '{}' can't go on {} bus", row.driver,
                to_string((*at)->kind()));
  }
  DeviceBus* full = nullptr;
  for (DeviceBus* bus : all) {
    if (bus->kind() != row.bus) continue;
    if (bus->has_room()) return bus;
    if (full == nullptr) full = bus;
  }
  if (full != nullptr) return full;  // it has the words for it
  return fail(ErrorKind::kNotFound, "No '{}' bus found for device '{}'", to_string(row.bus),
              row.driver);
}

Result<UserDevice*> UserDevices::add(const DeviceConfig& config) {
  const DeviceRow* row = find_device_row(table_, config.driver);
  if (row == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not a valid device model name",
                config.driver);
  }
  if (row->made_by_board()) {  // the board makes it, with the machine
    return fail(ErrorKind::kUnsupported, "Bus 'isa.0' does not support hotplugging");
  }
  if (find(config.id) != nullptr)
    return fail(ErrorKind::kExists, "Duplicate device ID '{}'", config.id);
  TRY(check_properties(*row, config.options));
  auto request =
      std::make_unique<DeviceRequest>(host_, config.id, new_path(config.id), config.options);
  DeviceRequest& made_from = *request;
  made_from.set_asked(config);
  made_from.set_bus_number(next_bus_);
  DeviceBus* bus = TRY(take_bus(*row, made_from.options()));
  std::unique_ptr<UserDevice> device(new UserDevice(*bus, std::move(request)));
  device->place_ = TRY(bus->make(*row, made_from));
  if (const auto unused = made_from.options().first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property '{}.{}' not found", row->driver, *unused);
  }
  TRY(device->place_->plug());
  if (config.id.empty() && !made_from.buses().empty()) ++next_bus_;
  if (!running_) made_from.run_hooks().stopped();
  return devices_.emplace_back(std::move(device)).get();
}

void UserDevices::silence() {
  for (const auto& device : devices_) device->request().run_hooks().stopped();
}

void UserDevices::stopped() {
  running_ = false;
  for (const auto& device : devices_) device->request().run_hooks().stopped();
  bql.assert_held();
  host_.storage.settle(host_.loop.gs());
}

void UserDevices::resumed() {
  running_ = true;
  for (const auto& device : devices_) device->request().run_hooks().runs();
}

}  // namespace rhea::vmm
