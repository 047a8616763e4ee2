#include "vmm/pci_device_bus.h"

#include <charconv>
#include <utility>
#include <variant>

#include "devices/pci_device.h"
#include "vmm/device_request.h"
#include "vmm/device_table.h"

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

class PciBusDevice final : public BusDevice {
 public:
  PciBusDevice(devices::PciBus& bus, unsigned slot, std::shared_ptr<devices::PciDevice> device)
      : bus_(bus), slot_(slot), device_(std::move(device)) {}

  Result<void> plug() override REQUIRES(bql) {
    TRY(device_->realize());
    auto added = bus_.add(device_, slot_);
    if (!added) device_->unrealize();
    return added;
  }
  void prepare_to_leave(std::function<void()> look) override REQUIRES(bql) {
    device_->prepare_to_leave(std::move(look));
  }
  bool idle() const override REQUIRES(bql) { return device_->idle(); }
  Result<void> leave() override REQUIRES(bql) { return device_->leave(); }
  void stay() override REQUIRES(bql) { device_->stay(); }
  /// The guest can not reach it first, then it ends what it has under way.
  void unplug() override REQUIRES(bql) {
    bus_.remove(*device_);
    device_->unrealize();
  }
  std::optional<unsigned> hotplug_slot() const override REQUIRES(bql) { return slot_; }
  std::string location() const override { return fmt::format("{:02x}.0", slot_); }
  devices::Device* saved() const override { return device_.get(); }
  std::string settings() const override REQUIRES(bql) { return device_->settings(); }

 private:
  devices::PciBus& bus_;
  const unsigned slot_;
  const std::shared_ptr<devices::PciDevice> device_;
};

}  // namespace

bool PciDeviceBus::has_room() const { return bus_.free_slot(kFirstSlot).has_value(); }

Result<unsigned> PciDeviceBus::take_slot(const DeviceRow& row, DeviceRequest& request) {
  const auto address = TRY(request.options().take_string("addr"));
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

Result<std::unique_ptr<BusDevice>> PciDeviceBus::make(const DeviceRow& row,
                                                      DeviceRequest& request) {
  const unsigned slot = TRY(take_slot(row, request));
  auto device = TRY(std::get<DeviceRow::MakePci>(row.make)(request));
  return std::make_unique<PciBusDevice>(bus_, slot, std::move(device));
}

}  // namespace rhea::vmm
