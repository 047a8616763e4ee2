#include "devices/pci_device.h"

#include <algorithm>
#include <utility>

#include "devices/pci_bus.h"
#include "util/log.h"

namespace rhea::devices {

PciDevice::~PciDevice() { RHEA_CHECK(bus_ == nullptr, "{} is destroyed on its bus", id()); }

uint8_t PciDevice::interrupt_pin() const {
  return static_cast<uint8_t>(config_.read(std::to_underlying(PciReg::kInterruptPin), 1));
}

std::vector<PciDevice::BarView> PciDevice::bars() const {
  std::vector<BarView> views;
  for (unsigned i = 0; i < PciConfig::kBars; ++i) {
    const Bar& bar = bars_[i];
    if (bar.region == nullptr) continue;
    views.push_back({i, *config_.bar_kind(i), bar.region->size_bytes(), bar.mapped_at});
  }
  return views;
}

uint32_t PciDevice::config_read(uint8_t offset, unsigned size) {
  config_reading(offset, size);
  const uint32_t value = config_.read(offset, size);
  RHEA_TRACE(kDevices, "pci_config_read id={} offset={:#04x} size={} value={:#x}", id(), offset,
             size, value);
  return value;
}

void PciDevice::config_write(uint8_t offset, uint32_t value, unsigned size) {
  RHEA_TRACE(kDevices, "pci_config_write id={} offset={:#04x} size={} value={:#x}", id(), offset,
             size, value);
  config_.write(offset, value, size);
  update_mappings();
  update_intx();
  config_written(offset, size);
}

void PciDevice::reset() {
  config_.reset();
  update_mappings();
  set_intx(false);
  reset_function();
}

void PciDevice::add_bar(unsigned index, BarKind kind, memory::MemoryRegion& region) {
  config_.define_bar(index, kind, region.size_bytes());
  bars_[index].region = &region;
}

void PciDevice::attach(PciBus& bus, unsigned slot) {
  bus_ = &bus;
  slot_ = slot;
  update_mappings();
  update_intx();
}

void PciDevice::detach() {
  {
    memory::MemoryTransaction transaction;
    for (unsigned i = 0; i < PciConfig::kBars; ++i) map_bar(i, std::nullopt);
  }
  if (std::exchange(intx_driven_, false)) bus_->set_intx(slot_, interrupt_pin(), false);
  bus_ = nullptr;
}

void PciDevice::update_mappings() {
  if (bus_ == nullptr) return;
  const auto is_stale = [this](unsigned i) {
    return bars_[i].region != nullptr && config_.bar_address(i) != bars_[i].mapped_at;
  };
  std::array<unsigned, PciConfig::kBars> stale{};
  size_t count = 0;
  for (unsigned i = 0; i < PciConfig::kBars; ++i) {
    if (is_stale(i)) stale[count++] = i;
  }
  if (count == 0) return;
  memory::MemoryTransaction transaction;
  for (size_t i = 0; i < count; ++i) map_bar(stale[i], config_.bar_address(stale[i]));
}

void PciDevice::map_bar(unsigned index, std::optional<uint64_t> address) {
  Bar& bar = bars_[index];
  if (bar.region == nullptr || bar.mapped_at == address) return;
  memory::MemoryRegion& window = bus_->window(*config_.bar_kind(index));
  if (!address) {
    window.remove(*bar.region);
  } else if (bar.mapped_at) {
    bar.region->set_offset(*address);
  } else {
    window.add(*bar.region, *address);
  }
  RHEA_TRACE(kDevices, "pci_bar id={} bar={} address={:#x} mapped={}", id(), index,
             address.value_or(0), address.has_value());
  bar.mapped_at = address;
}

void PciDevice::set_intx(bool level) {
  intx_level_ = level;
  config_.set_status_bit(PciConfig::kStatusInterrupt, level);  // whether or not it is held back
  update_intx();
}

void PciDevice::update_intx() {
  const bool drive = intx_level_ && !config_.command(PciCommand::kInterruptDisable) &&
                     bus_ != nullptr && interrupt_pin() != 0;
  if (drive == intx_driven_) return;
  intx_driven_ = drive;
  bus_->set_intx(slot_, interrupt_pin(), drive);
}

Result<void> PciDevice::check_pci_state(const PciDeviceState& state) const {
  if (auto checked = config_.check(state.config); !checked) {
    return std::move(checked).error().context("field 'config'");
  }
  const uint8_t status = state.config[std::to_underlying(PciReg::kStatus)];
  if (((status & PciConfig::kStatusInterrupt) != 0) != state.intx) {
    return fail(ErrorKind::kCorrupt, "field 'intx': {}, the status register says otherwise",
                state.intx);
  }
  return ok();
}

void PciDevice::set_pci_state(const PciDeviceState& state) {
  config_.set_bytes(state.config);
  intx_level_ = state.intx;
  update_mappings();
  update_intx();
}

}  // namespace rhea::devices
