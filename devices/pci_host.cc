#include "devices/pci_host.h"

#include <optional>
#include <utility>

namespace rhea::devices {
namespace {

// CONFIG_ADDRESS. [PCI-3.0 3.2.2.3.2]
constexpr uint32_t kEnable = 0x8000'0000;
constexpr uint32_t kAddressBits = 0x80ff'fffc;  // the reserved bits read 0

// The 440FX's attribute map: which parts of the BIOS area show RAM. Here all of it is RAM; the
// registers are remembered for those who write and check them. [440FX, PAM registers]
constexpr uint8_t kFirstPam = 0x59;
constexpr uint8_t kLastPam = 0x5f;

constexpr PciIdentity kBridgeIdentity{
    .vendor = 0x8086, .device = 0x1237, .revision = 2, .class_code = 0x06'00'00};

constexpr uint64_t all_ones(unsigned size) { return (uint64_t{1} << (8 * size)) - 1; }

}  // namespace

class PciHost::HostBridge final : public PciDevice {
 public:
  explicit HostBridge(std::string name) : PciDevice(std::move(name), kBridgeIdentity) {}
  using PciDevice::check_pci_state;
  using PciDevice::pci_state;
  using PciDevice::set_pci_state;

 private:
  Result<void> do_realize() override REQUIRES(bql) {
    for (uint8_t pam = kFirstPam; pam <= kLastPam; ++pam) config().allow_writes(pam, 0xff, 1);
    return ok();
  }
};

PciHost::PciHost(std::string id, Windows windows, const std::array<IrqLine, PciBus::kWires>& intx,
                 memory::IoHandler& byte_port_cf9)
    : SavedDevice(std::move(id)),
      byte_port_cf9_(byte_port_cf9),
      address_region_(this->id() + "-address", kPortSize, address_handler_, kAddressAccess),
      data_region_(this->id() + "-data", kPortSize, data_handler_, kDataAccess),
      bus_("pci.0", windows.io, windows.memory, intx) {}

PciHost::~PciHost() = default;

Result<void> PciHost::do_realize() {
  own(address_region_);
  own(data_region_);
  bridge_ = std::make_shared<HostBridge>(id() + "-bridge");
  TRY(bridge_->realize());
  return bus_.add(bridge_, 0);
}

void PciHost::do_unrealize() {
  bus_.remove(*bridge_);
  bridge_->unrealize();
  bridge_.reset();
}

void PciHost::reset() {
  address_ = 0;
  bus_.reset();
}

// Only a dword access is the configuration address; anything smaller goes to the ports beneath it,
// of which a PC has one. [PCI-3.0 3.2.2.3.2]
uint64_t PciHost::AddressPort::io_read(uint64_t offset, unsigned size) {
  bql.assert_held();
  if (size == 4) return host.address_;
  if (size == 1 && offset == 1) return host.byte_port_cf9_.io_read(0, 1);
  host.errors().report(GuestError::kBadAccess, offset, size);
  return all_ones(size);
}

void PciHost::AddressPort::io_write(uint64_t offset, uint64_t value, unsigned size) {
  bql.assert_held();
  if (size == 4) {
    host.address_ = static_cast<uint32_t>(value) & kAddressBits;
  } else if (size == 1 && offset == 1) {
    host.byte_port_cf9_.io_write(0, value, 1);
  } else {
    host.errors().report(GuestError::kBadAccess, offset, size);
  }
}

std::optional<PciHost::Target> PciHost::target(uint64_t offset, unsigned size) const {
  const unsigned bus_number = address_ >> 16 & 0xff;
  if ((address_ & kEnable) == 0 || bus_number != 0) return std::nullopt;
  if (offset + size > kPortSize) return std::nullopt;  // no access crosses a register's dword
  return Target{.slot = address_ >> 11 & 0x1f,
                .function = address_ >> 8 & 0x7,
                .offset = static_cast<uint8_t>((address_ & 0xfc) + offset)};
}

uint64_t PciHost::DataPort::io_read(uint64_t offset, unsigned size) {
  bql.assert_held();
  const auto to = host.target(offset, size);
  if (!to) return all_ones(size);
  return host.bus_.config_read(to->slot, to->function, to->offset, size);
}

void PciHost::DataPort::io_write(uint64_t offset, uint64_t value, unsigned size) {
  bql.assert_held();
  const auto to = host.target(offset, size);
  if (!to) return;
  host.bus_.config_write(to->slot, to->function, to->offset, static_cast<uint32_t>(value), size);
}

PciHostState PciHost::state() { return {.address = address_, .bridge = bridge_->pci_state()}; }

Result<void> PciHost::check_state(const PciHostState& state) const {
  TRY(check_bits("address", state.address, kAddressBits));
  if (auto checked = bridge_->check_pci_state(state.bridge); !checked) {
    return std::move(checked).error().context("field 'bridge'");
  }
  return ok();
}

void PciHost::set_state(const PciHostState& state) {
  address_ = state.address;
  bridge_->set_pci_state(state.bridge);
}

}  // namespace rhea::devices
