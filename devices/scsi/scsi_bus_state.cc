// How a SCSI bus is saved and loaded.
#include <algorithm>
#include <utility>

#include "devices/scsi/internal/scsi_bus_parts.h"
#include "devices/scsi/scsi_bus.h"

namespace rhea::devices {
namespace {

constexpr size_t kTargets = 256;

}  // namespace

// Units come and go on main, where this runs too: the list of them stays as it is. They are not
// called with the lock held.
ScsiBusState ScsiBus::state() const {
  ScsiBusState state;
  for (const auto& unit : units()) {
    const ScsiAddress& address = unit->address();
    state.units.push_back({.channel = address.channel,
                           .target = address.target,
                           .lun = address.lun,
                           .attentions = {},
                           .unit = unit->state()});
  }
  MutexLock lock(mutex_);
  for (size_t i = 0; i < slots_.size(); ++i) {
    state.units[i].attentions = slots_[i]->attentions.saved();
  }
  for (size_t i = 0; i < luns_read_.size(); ++i) {
    if (!luns_read_[i]) continue;
    state.luns_read.push_back(
        {static_cast<uint8_t>(i / kTargets), static_cast<uint8_t>(i % kTargets)});
  }
  return state;
}

Result<void> ScsiBus::check_state(const ScsiBusState& state) const {
  const auto units = this->units();
  if (units.size() != state.units.size()) {
    return fail(ErrorKind::kCorrupt, "field 'units': {} units, '{}' has {}", state.units.size(),
                name_, units.size());
  }
  for (size_t i = 0; i < units.size(); ++i) {
    const ScsiSlotState& from = state.units[i];
    const ScsiAddress& address = units[i]->address();
    if (ScsiAddress{from.channel, from.target, from.lun} != address) {
      return fail(ErrorKind::kCorrupt, "field 'units[{}]': unit {}:{}:{}, ours is {}:{}:{}", i,
                  from.channel, from.target, from.lun, address.channel, address.target,
                  address.lun);
    }
    auto checked = UnitAttentions::check(from.attentions);
    if (checked) checked = units[i]->check_state(from.unit);
    if (!checked) return std::move(checked).error().context(fmt::format("field 'units[{}]'", i));
  }
  for (const auto& [channel, target] : state.luns_read) {
    if (channel <= limits_.max_channel && target <= limits_.max_target) continue;
    return fail(ErrorKind::kCorrupt, "field 'luns_read': there is no target {}:{}", channel,
                target);
  }
  return ok();
}

void ScsiBus::set_state(const ScsiBusState& state) {
  const auto units = this->units();
  for (size_t i = 0; i < units.size(); ++i) units[i]->set_state(state.units[i].unit);
  MutexLock lock(mutex_);
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i]->attentions.load(state.units[i].attentions);
  luns_read_.assign(luns_read_.size(), false);
  for (const auto& [channel, target] : state.luns_read) {
    luns_read_[channel * kTargets + target] = true;
  }
}

}  // namespace rhea::devices
