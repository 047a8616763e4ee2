#include "devices/acpi_pci_hotplug.h"

#include "util/log.h"

namespace rhea::devices {
namespace {

enum class Reg : uint8_t {
  kUp = 0x00,
  kDown = 0x04,
  kEject = 0x08,
  kRemovable = 0x0c,
  kBus = 0x10,
  kAcpiIndex = 0x14,
  kAsked = 0x18,
};

constexpr uint32_t bit_of(unsigned slot) { return uint32_t{1} << slot; }

}  // namespace

AcpiPciHotplug::AcpiPciHotplug(std::string id, std::move_only_function<void()> event)
    : SavedDevice(std::move(id)),
      event_(std::move(event)),
      io_(this->id(), kSize, *this, kAccess) {}

Result<void> AcpiPciHotplug::do_realize() {
  own(io_);
  return ok();
}

void AcpiPciHotplug::do_unrealize() {
  event_ = nullptr;
  eject_ = nullptr;
}

void AcpiPciHotplug::device_came(unsigned slot) {
  taken_[slot].earlier = taken_[slot].all;
  up_ |= bit_of(slot);
  raise();
}

void AcpiPciHotplug::ask_for(unsigned slot) {
  down_ |= bit_of(slot);
  asked_ |= bit_of(slot);
  raise();
}

void AcpiPciHotplug::forget(unsigned slot) {
  up_ &= ~bit_of(slot);
  down_ &= ~bit_of(slot);
  asked_ &= ~bit_of(slot);
}

void AcpiPciHotplug::event_enabled() {
  if ((up_ | asked_) != 0) raise();
}

void AcpiPciHotplug::reset() {
  up_ = down_ = asked_ = bus_ = 0;
  taken_ = {};
  held_ = {};
}

void AcpiPciHotplug::eject(Eject now) {
  if (!holding_) {
    if (eject_) eject_(now);
    return;
  }
  // A slot's ejects are late only if all of them are.
  const uint32_t in_time = (held_.slots & ~held_.late) | (now.slots & ~now.late);
  held_.slots |= now.slots;
  held_.late = held_.slots & ~in_time;
}

void AcpiPciHotplug::release_ejects() {
  holding_ = false;
  const Eject held = std::exchange(held_, {});
  if (held.slots != 0) eject(held);
}

void AcpiPciHotplug::raise() {
  if (event_) event_();
}

uint32_t AcpiPciHotplug::take_asked() {
  const uint32_t asked = std::exchange(asked_, 0);
  for (unsigned slot = 0; slot < taken_.size(); ++slot) taken_[slot].all += asked >> slot & 1;
  return asked;
}

/// Which of the slots the guest ejects for the sake of an earlier device.
uint32_t AcpiPciHotplug::count_answers(uint32_t slots) {
  uint32_t late = 0;
  for (unsigned slot = 0; slot < taken_.size(); ++slot) {
    auto& taken = taken_[slot];
    if ((slots & bit_of(slot)) == 0 || taken.all == 0) continue;
    --taken.all;
    if (taken.earlier == 0) continue;
    --taken.earlier;
    late |= bit_of(slot);
  }
  return late;
}

uint32_t AcpiPciHotplug::read_register(uint64_t offset) {
  const Reg reg{static_cast<uint8_t>(offset)};
  if (reg == Reg::kBus) return bus_;
  if (bus_ != 0) return 0;
  switch (reg) {
    case Reg::kUp:
      return std::exchange(up_, 0);
    case Reg::kDown:
      return down_;
    case Reg::kAsked:
      return take_asked();
    case Reg::kRemovable:
      return kRemovable;
    case Reg::kEject:
    case Reg::kAcpiIndex:
    case Reg::kBus:
      break;
  }
  return 0;
}

uint64_t AcpiPciHotplug::io_read(uint64_t offset, unsigned) {
  bql.assert_held();
  const uint32_t value = read_register(offset);
  RHEA_TRACE(kDevices, "pci_hotplug_read offset={:#x} value={:#x}", offset, value);
  return value;
}

void AcpiPciHotplug::io_write(uint64_t offset, uint64_t value, unsigned) {
  bql.assert_held();
  RHEA_TRACE(kDevices, "pci_hotplug_write offset={:#x} value={:#x}", offset, value);
  switch (Reg{static_cast<uint8_t>(offset)}) {
    case Reg::kBus:
      bus_ = static_cast<uint32_t>(value);
      return;
    case Reg::kEject: {
      const auto slots = static_cast<uint32_t>(value);
      if (bus_ != 0 || (slots & ~kRemovable) != 0) {
        return errors().report(GuestError::kBadValue, offset, value);
      }
      const uint32_t late = count_answers(slots);
      if (slots != 0) eject({.slots = slots, .late = late});
      return;
    }
    case Reg::kAcpiIndex:
      return;  // asks for the index of a slot: there is none
    case Reg::kUp:
    case Reg::kDown:
    case Reg::kAsked:
    case Reg::kRemovable:
      return errors().report(GuestError::kReadOnly, offset, value);
  }
}

AcpiPciHotplugState AcpiPciHotplug::state() {
  return {.up = up_,
          .down = down_,
          .asked = asked_,
          .bus = bus_,
          .taken = taken_,
          .held_slots = held_.slots,
          .held_late = held_.late};
}

Result<void> AcpiPciHotplug::check_state(const AcpiPciHotplugState& state) const {
  TRY(check_bits("up", state.up, kRemovable));
  TRY(check_bits("down", state.down, kRemovable));
  TRY(check_bits("asked", state.asked, state.down));
  for (unsigned slot = 0; slot < state.taken.size(); ++slot) {
    const auto& [all, earlier] = state.taken[slot];
    if (earlier > all || (all > 0 && (kRemovable >> slot & 1) == 0)) {
      return bad_state("taken", "slot {}: {} requests, {} of them earlier", slot, all, earlier);
    }
  }
  TRY(check_bits("held_slots", state.held_slots, kRemovable));
  return check_bits("held_late", state.held_late, state.held_slots);
}

// The event that tells the guest to look is the power management's, and travels with it.
void AcpiPciHotplug::set_state(const AcpiPciHotplugState& state) {
  up_ = state.up;
  down_ = state.down;
  asked_ = state.asked;
  bus_ = state.bus;
  taken_ = state.taken;
  holding_ = true;  // until the machine runs
  held_ = {.slots = state.held_slots, .late = state.held_late};
}

}  // namespace rhea::devices
