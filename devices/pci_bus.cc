#include "devices/pci_bus.h"

#include <algorithm>
#include <utility>

#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {

PciBus::PciBus(std::string name, memory::MemoryRegion& io_window,
               memory::MemoryRegion& memory_window, const std::array<IrqLine, kWires>& intx)
    : name_(std::move(name)), io_window_(io_window), memory_window_(memory_window), intx_(intx) {}

PciBus::~PciBus() {
  const bool empty = std::ranges::all_of(slots_, [](const auto& s) { return s == nullptr; });
  RHEA_CHECK(empty, "bus {} is destroyed with devices on it", name_);
}

Result<void> PciBus::add(std::shared_ptr<PciDevice> device, unsigned slot) {
  if (slot >= kSlots) {
    return fail(ErrorKind::kInvalidArgument, "bus '{}' has no slot {}", name_, slot);
  }
  if (slots_[slot] != nullptr) {
    return fail(ErrorKind::kExists, "slot {} of bus '{}' is in use by {}", slot, name_,
                slots_[slot]->id());
  }
  RHEA_CHECK(device->realized() && device->bus() == nullptr);
  slots_[slot] = std::move(device);
  slots_[slot]->attach(*this, slot);
  return ok();
}

std::shared_ptr<PciDevice> PciBus::remove(PciDevice& device) {
  RHEA_CHECK(device.bus() == this && slots_[device.slot()].get() == &device);
  device.detach();
  freed_[device.slot()] = ++removals_;
  return std::exchange(slots_[device.slot()], nullptr);
}

PciDevice* PciBus::device_at(unsigned slot) const {
  return slot < kSlots ? slots_[slot].get() : nullptr;
}

Result<unsigned> PciBus::free_slot(unsigned from) const {
  unsigned best = kSlots;
  for (unsigned slot = from; slot < kSlots; ++slot) {
    if (slots_[slot] != nullptr) continue;
    if (best == kSlots || freed_[slot] < freed_[best]) best = slot;
  }
  if (best != kSlots) return best;
  return fail(ErrorKind::kNotFound, "bus '{}' has no free slot", name_);
}

void PciBus::reset() {
  for (const auto& device : slots_) {
    if (device != nullptr) device->reset();
  }
}

uint32_t PciBus::config_read(unsigned slot, unsigned function, uint8_t offset, unsigned size) {
  PciDevice* device = function == 0 ? device_at(slot) : nullptr;
  if (device == nullptr) return static_cast<uint32_t>((uint64_t{1} << (8 * size)) - 1);
  return device->config_read(offset, size);
}

void PciBus::config_write(unsigned slot, unsigned function, uint8_t offset, uint32_t value,
                          unsigned size) {
  PciDevice* device = function == 0 ? device_at(slot) : nullptr;
  if (device != nullptr) device->config_write(offset, value, size);
}

// Level-triggered and shared: the wire is up while any device holds it.
void PciBus::set_intx(unsigned slot, uint8_t pin, bool level) {
  const unsigned wire = wire_of(slot, pin);
  unsigned& drivers = drivers_[wire];
  RHEA_CHECK(level || drivers > 0);
  drivers = level ? drivers + 1 : drivers - 1;
  intx_[wire].set(drivers > 0);
}

}  // namespace rhea::devices
