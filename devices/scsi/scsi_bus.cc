#include "devices/scsi/scsi_bus.h"

#include <algorithm>
#include <utility>

#include "devices/scsi/internal/scsi_bus_parts.h"
#include "devices/scsi/scsi_target.h"
#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

bool same_target(const ScsiAddress& a, const ScsiAddress& b) {
  return a.channel == b.channel && a.target == b.target;
}

size_t target_index(const ScsiAddress& address) {
  constexpr size_t kTargets = 256;
  return address.channel * kTargets + address.target;
}

}  // namespace

ScsiBus::ScsiBus(std::string name, const Limits& limits, MainLoop& loop)
    : name_(std::move(name)),
      limits_(limits),
      loop_(loop),
      look_bh_(std::make_unique<Bh>(loop.service(),
                                    [this] {
                                      bql.assert_held();
                                      look_at_leaving();
                                    })),
      luns_read_(target_index({.channel = limits.max_channel, .target = 255}) + 1) {}

ScsiBus::~ScsiBus() {
  MutexLock lock(mutex_);
  RHEA_CHECK(slots_.empty() && waiters_ == nullptr, "the bus {} goes while it is in use", name_);
}

Result<ScsiAddress> ScsiBus::choose(const Place& place) const {
  constexpr auto kBad = ErrorKind::kInvalidArgument;
  if (place.channel > limits_.max_channel) {
    return fail(kBad, "bad scsi channel id: {}", place.channel);
  }
  if (place.target && *place.target > limits_.max_target) {
    return fail(kBad, "bad scsi device id: {}", *place.target);
  }
  if (place.lun && *place.lun > limits_.max_lun) {
    return fail(kBad, "bad scsi device lun: {}", *place.lun);
  }
  ScsiAddress address{.channel = static_cast<uint8_t>(place.channel),
                      .target = static_cast<uint8_t>(place.target.value_or(0)),
                      .lun = static_cast<uint16_t>(place.lun.value_or(0))};
  MutexLock lock(mutex_);
  if (!place.target) {
    while (find(address) != nullptr) {
      if (address.target == limits_.max_target) return fail(ErrorKind::kResource, "no free target");
      ++address.target;
    }
    return address;
  }
  if (!place.lun) {
    while (find(address) != nullptr) {
      if (address.lun == limits_.max_lun) return fail(ErrorKind::kResource, "no free lun");
      ++address.lun;
    }
    return address;
  }
  const Slot* taken = find(address);
  if (taken == nullptr) return address;
  return fail(ErrorKind::kExists, "lun already used by '{}'", taken->unit->name());
}

void ScsiBus::close() { look_bh_.reset(); }

Result<void> ScsiBus::add(std::shared_ptr<ScsiUnit> unit) {
  const ScsiAddress address = unit->address();
  RHEA_CHECK(address.channel <= limits_.max_channel && address.target <= limits_.max_target &&
                 address.lun <= limits_.max_lun,
             "'{}' is outside the bus {}", unit->name(), name_);
  {
    MutexLock lock(mutex_);
    if (const Slot* taken = find(address)) {
      return fail(ErrorKind::kExists, "lun already used by '{}'", taken->unit->name());
    }
    luns_changed(address);
    unit->set_owner(this);
    const auto at = std::ranges::upper_bound(slots_, address, {}, &Slot::address_of);
    slots_.insert(at, std::make_unique<Slot>(std::move(unit)));
  }
  RHEA_TRACE(kDevices, "scsi_unit_added bus={} target={} lun={}", name_, address.target,
             address.lun);
  if (listener_ != nullptr) listener_->unit_added(address);
  return ok();
}

void ScsiBus::prepare_to_leave(ScsiUnit& unit, std::function<void()> look) {
  {
    MutexLock lock(mutex_);
    Slot& slot = slot_of(unit);
    RHEA_CHECK(!slot.leaving, "'{}' prepares to leave twice", unit.name());
    slot.leaving = true;
    slot.look = std::move(look);
    slot.cancel_all(ScsiOutcome::End::kAborted);
  }
  unit.wake_cancelled();
  look_bh_->schedule();
}

bool ScsiBus::idle(const ScsiUnit& unit) const {
  if (!unit.idle()) return false;
  MutexLock lock(mutex_);
  return slot_of(unit).users == 0;
}

Result<void> ScsiBus::leave(ScsiUnit& unit, Nanoseconds patience) {
  std::shared_ptr<ScsiUnit> kept;
  const auto taken = [&] { return unit.idle() && (kept = take_if_unused(unit)) != nullptr; };
  if (!loop_.waiter().until(loop_.gs(), taken, patience)) {
    return fail(ErrorKind::kTimeout, "Requests of '{}' did not end within {} s", unit.name(),
                std::chrono::duration_cast<std::chrono::seconds>(patience).count());
  }
  const ScsiAddress address = unit.address();
  {
    MutexLock lock(mutex_);
    luns_changed(address);
  }
  unit.set_owner(nullptr);
  RHEA_TRACE(kDevices, "scsi_unit_removed bus={} target={} lun={}", name_, address.target,
             address.lun);
  if (listener_ != nullptr) listener_->unit_removed(address);
  return ok();
}

/// In one critical section: who comes later does not find it.
std::shared_ptr<ScsiUnit> ScsiBus::take_if_unused(const ScsiUnit& unit) {
  MutexLock lock(mutex_);
  Slot& slot = slot_of(unit);
  RHEA_CHECK(slot.leaving, "'{}' leaves unprepared", unit.name());
  if (slot.users != 0) return nullptr;
  std::shared_ptr<ScsiUnit> kept = slot.unit;
  std::erase_if(slots_, [&slot](const auto& other) { return other.get() == &slot; });
  return kept;
}

void ScsiBus::stay(ScsiUnit& unit) {
  {
    MutexLock lock(mutex_);
    Slot& slot = slot_of(unit);
    RHEA_CHECK(slot.leaving, "'{}' stays without having prepared to leave", unit.name());
    slot.leaving = false;
    slot.look = nullptr;
    luns_changed(unit.address());
  }
  if (listener_ != nullptr) listener_->unit_added(unit.address());
}

Result<void> ScsiBus::remove(ScsiUnit& unit, Nanoseconds patience) {
  prepare_to_leave(unit, [] {});
  Result<void> left = leave(unit, patience);
  if (!left) stay(unit);
  return left;
}

/// Whoever is the last to use a unit sees that it leaves, under the lock, and calls this.
void ScsiBus::tell_unused() {
  loop_.waiter().kick();
  look_bh_->schedule();
}

void ScsiBus::look_at_leaving() {
  std::vector<std::function<void()>> looks;
  {
    MutexLock lock(mutex_);
    for (const auto& slot : slots_) {
      if (slot->leaving && slot->users == 0) looks.push_back(slot->look);
    }
  }
  for (const auto& look : looks) look();
}

std::vector<std::shared_ptr<ScsiUnit>> ScsiBus::units() const {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<ScsiUnit>> units;
  for (const auto& slot : slots_) units.push_back(slot->unit);
  return units;
}

ScsiBus::Slot* ScsiBus::find(const ScsiAddress& address) const {
  const auto at = std::ranges::lower_bound(slots_, address, {}, &Slot::address_of);
  return at != slots_.end() && (*at)->unit->address() == address ? at->get() : nullptr;
}

ScsiBus::Slot& ScsiBus::slot_of(const ScsiUnit& unit) const {
  Slot* slot = find(unit.address());
  RHEA_CHECK(slot != nullptr && slot->unit.get() == &unit, "'{}' is not on the bus {}", unit.name(),
             name_);
  return *slot;
}

/// Not one that leaves.
ScsiBus::Slot* ScsiBus::find_present(const ScsiAddress& address) const {
  Slot* slot = find(address);
  return slot != nullptr && !slot->leaving ? slot : nullptr;
}

bool ScsiBus::has_target(const ScsiAddress& address) const {
  const ScsiAddress first{.channel = address.channel, .target = address.target, .lun = 0};
  for (auto at = std::ranges::lower_bound(slots_, first, {}, &Slot::address_of);
       at != slots_.end() && same_target((*at)->unit->address(), address); ++at) {
    if (!(*at)->leaving) return true;
  }
  return false;
}

void ScsiBus::attention(ScsiUnit& unit, const ScsiSense& sense) {
  {
    MutexLock lock(mutex_);
    Slot* slot = find(unit.address());
    if (slot == nullptr || slot->unit.get() != &unit) return;
    slot->attentions.establish(sense);
  }
  if (listener_ == nullptr || !unit.changes_are_events()) return;
  listener_->unit_changed(unit.address(), sense);
}

/// The LUNs of a target, for its initiator, who knows them then. [SPC-4 6.33]
std::vector<uint16_t> ScsiBus::note_luns_read(const ScsiAddress& address) {
  luns_read_[target_index(address)] = true;
  std::vector<uint16_t> luns;
  for (const auto& slot : slots_) {
    if (!same_target(slot->unit->address(), address) || slot->leaving) continue;
    slot->attentions.forget(sense::kLunsChanged);
    luns.push_back(slot->unit->address().lun);
  }
  return luns;
}

/// What nobody has read has not changed: so the units that a machine starts with are silent.
void ScsiBus::luns_changed(const ScsiAddress& address) {
  if (!luns_read_[target_index(address)]) return;
  for (const auto& slot : slots_) {
    if (same_target(slot->unit->address(), address)) {
      slot->attentions.establish(sense::kLunsChanged);
    }
  }
}

/// Finds out who is to answer. A task for a unit is listed.
ScsiBus::Admission ScsiBus::admit(const ScsiAddress& address, Task& task) {
  using enum Admission::By;
  const scsi_target::Opcode opcode = scsi_target::opcode_of(task.request);
  const bool reports_luns = opcode == scsi_target::Opcode::kReportLuns;
  const bool requests_sense = opcode == scsi_target::Opcode::kRequestSense;
  if (!has_target(address)) return {.by = kNobody};
  if (reports_luns || requests_sense) {
    if (auto refused = scsi_target::refuse(task.request)) {
      return {.by = kRefusal, .refusal = *refused};
    }
  }
  if (reports_luns) return {.by = kReportLuns, .luns = note_luns_read(address)};
  if (address.lun == scsi_target::kReportLunsUnit) {
    return {.by = requests_sense ? kRequestSense : kWellKnownUnit};
  }
  Slot* slot = find_present(address);
  if (slot == nullptr) {
    if (requests_sense) return {.by = kRequestSense, .sense = sense::kLunNotSupported};
    return {.by = kNoUnit};
  }
  if (requests_sense) {
    return {.by = kRequestSense, .sense = slot->attentions.take().value_or(sense::kNone)};
  }
  if (scsi_target::is_told_attention(opcode)) {
    if (const auto condition = slot->attentions.take()) {
      return {.by = kRefusal, .refusal = ScsiOutcome::check(*condition)};
    }
  }
  task.serial = ++last_serial_;
  slot->list(task);
  return {.by = kUnit};
}

ScsiOutcome ScsiBus::execute(Co& co, const ScsiAddress& address, ScsiRequest& request) {
  Task task{request};
  Admission admission;
  {
    MutexLock lock(mutex_);
    admission = admit(address, task);
  }
  return carry_out(co, admission, task);
}

ScsiOutcome ScsiBus::carry_out(Co& co, const Admission& admission, Task& task) {
  using enum Admission::By;
  switch (admission.by) {
    case kNobody:
      return {.end = ScsiOutcome::End::kNoTarget};
    case kRefusal:
      return admission.refusal;
    case kReportLuns:
      return scsi_target::report_luns(task.request, admission.luns);
    case kRequestSense:
      return scsi_target::request_sense(task.request, admission.sense);
    case kWellKnownUnit:
      return scsi_target::at_well_known_unit(task.request);
    case kNoUnit:
      return scsi_target::at_no_unit(task.request);
    case kUnit:
      break;
  }
  const ScsiOutcome outcome = task.slot->unit->execute(co, task.request);
  end(task);
  return outcome;
}

/// The unit may go as soon as the lock is free.
void ScsiBus::end(Task& task) {
  Waiter* done = nullptr;
  bool leaving;
  {
    MutexLock lock(mutex_);
    leaving = task.slot->leaving;
    for (Waiter** at = &waiters_; *at != nullptr;) {
      Waiter* waiter = *at;
      if (!waiter->waits_for(task) || --waiter->left != 0) {
        at = &waiter->next;
        continue;
      }
      *at = waiter->next;
      waiter->next = std::exchange(done, waiter);
    }
    task.slot->unlist(task);
  }
  while (done != nullptr) {
    Waiter* next = done->next;  // it lives on the stack that runs once woken
    done->coroutine.wake();
    done = next;
  }
  if (leaving) tell_unused();
}

}  // namespace rhea::devices
