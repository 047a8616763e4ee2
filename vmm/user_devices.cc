#include "vmm/user_devices.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "devices/pci_device.h"
#include "util/check.h"

namespace rhea::vmm {
namespace {

/// The first slot that is given out: 0 is the host bridge, 1 is where a PC has its ISA bridge.
constexpr unsigned kFirstSlot = 2;

/// A slot as people write it: "5", "0x5", "05.0". Nothing if it is no such thing, or has a function
/// other than 0.
std::optional<unsigned> parse_slot(std::string_view text) {
  if (const size_t dot = text.find('.'); dot != text.npos) {
    const std::string_view function = text.substr(dot + 1);
    if (function != "0" && function != "0x0") return std::nullopt;
    text = text.substr(0, dot);
  }
  if (text.starts_with("0x")) text.remove_prefix(2);
  unsigned slot = 0;
  // Hexadecimal with or without 0x, as lspci shows it.
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), slot, 16);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (slot >= devices::PciBus::kSlots) return std::nullopt;
  return slot;
}

/// Nothing may be said that the driver does not know; what it knows it takes itself.
Result<void> check_properties(const DeviceRow& row, const OptionTree& options) {
  for (const std::string& key : options.keys()) {
    const bool place = key == "bus" || key == "addr";
    if (place ||
        std::ranges::find(row.properties, key, &DeviceProperty::name) != row.properties.end()) {
      continue;
    }
    return fail(ErrorKind::kInvalidArgument, "Property '{}.{}' not found", row.driver, key);
  }
  return ok();
}

}  // namespace

UserDevices::UserDevices(const DeviceHost& host, devices::PciBus& bus,
                         std::span<const DeviceRow> table)
    : host_(host), bus_(bus), table_(table) {}

UserDevices::~UserDevices() {
  bql.assert_held();
  while (!entries_.empty()) {
    take_out(bus_, entries_.back());
    entries_.pop_back();
  }
}

/// The guest can not reach it first, then it ends what it has under way.
void UserDevices::take_out(devices::PciBus& bus, Entry& entry) {
  bus.remove(*entry.device);
  entry.device->unrealize();
}

void UserDevices::remove(devices::PciDevice& device) {
  const auto at =
      std::ranges::find(entries_, &device, [](const Entry& e) { return e.device.get(); });
  RHEA_CHECK(at != entries_.end(), "'{}' is no device of -device", device.id());
  take_out(bus_, *at);
  entries_.erase(at);
}

devices::PciDevice* UserDevices::find(std::string_view name) const noexcept {
  const auto at = std::ranges::find_if(entries_, [&](const Entry& entry) {
    return !name.empty() && (entry.request->id() == name || entry.request->path() == name);
  });
  return at != entries_.end() ? at->device.get() : nullptr;
}

const DeviceRequest* UserDevices::request_of(const devices::PciDevice& device) const noexcept {
  const auto at =
      std::ranges::find(entries_, &device, [](const Entry& e) { return e.device.get(); });
  return at != entries_.end() ? at->request.get() : nullptr;
}

std::string UserDevices::new_path(const std::string& id) {
  if (!id.empty()) return "/machine/peripheral/" + id;
  return fmt::format("/machine/peripheral-anon/device[{}]", next_anonymous_++);
}

Result<unsigned> UserDevices::take_slot(OptionReader& options, const DeviceRow& row) {
  if (const auto bus = TRY(options.take_string("bus")); bus && *bus != bus_.name()) {
    return fail(ErrorKind::kNotFound, "Bus '{}' not found", *bus);
  }
  const auto address = TRY(options.take_string("addr"));
  if (!address) {
    const auto free = bus_.free_slot(kFirstSlot);
    if (free.has_value()) return *free;
    return fail(ErrorKind::kResource,
                "PCI: no slot/function available for {}, all in use or reserved", row.driver);
  }
  const auto slot = parse_slot(*address);
  if (!slot) {
    return fail(ErrorKind::kInvalidArgument, "Property '{}.addr' doesn't take value '{}'",
                row.driver, *address);
  }
  if (const devices::PciDevice* other = bus_.device_at(*slot)) {
    return fail(ErrorKind::kExists, "PCI: slot {} function 0 not available for {}, in use by {}",
                *slot, row.driver, other->id());
  }
  return *slot;
}

Result<devices::PciDevice*> UserDevices::add(const DeviceConfig& config) {
  const DeviceRow* row = find_device_row(table_, config.driver);
  if (row == nullptr || row->make == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is not a valid device model name",
                config.driver);
  }
  if (find(config.id) != nullptr)
    return fail(ErrorKind::kExists, "Duplicate device ID '{}'", config.id);
  TRY(check_properties(*row, config.options));
  Entry entry;
  entry.request =
      std::make_unique<DeviceRequest>(host_, config.id, new_path(config.id), config.options);
  const unsigned slot = TRY(take_slot(entry.request->options(), *row));
  entry.device = TRY(row->make(*entry.request));
  if (const auto unused = entry.request->options().first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property '{}.{}' not found", row->driver, *unused);
  }
  TRY(entry.device->realize());
  if (auto added = bus_.add(entry.device, slot); !added) {
    entry.device->unrealize();
    return std::move(added).error();
  }
  if (!running_) entry.request->run_hooks().stopped();
  entries_.push_back(std::move(entry));
  return entries_.back().device.get();
}

void UserDevices::stopped() {
  running_ = false;
  for (const Entry& entry : entries_) entry.request->run_hooks().stopped();
  bql.assert_held();
  host_.storage.settle(host_.loop.gs());
}

void UserDevices::resumed() {
  running_ = true;
  for (const Entry& entry : entries_) entry.request->run_hooks().runs();
}

}  // namespace rhea::vmm
