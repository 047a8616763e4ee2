// Task management of a ScsiBus. [SAM-5 7]
#include <utility>

#include "devices/scsi/internal/scsi_bus_parts.h"
#include "devices/scsi/scsi_bus.h"
#include "devices/scsi/scsi_target.h"

namespace rhea::devices {

using End = ScsiOutcome::End;

/// Whose tasks are meant: null for the well-known unit, which never has any.
ScsiBus::TaskResult ScsiBus::find_task_set(const ScsiAddress& address, Slot*& slot) const {
  slot = nullptr;
  if (!has_target(address)) return TaskResult::kNoTarget;
  if (address.lun == scsi_target::kReportLunsUnit) return TaskResult::kComplete;
  slot = find_present(address);
  return slot != nullptr ? TaskResult::kComplete : TaskResult::kIncorrectLun;
}

ScsiBus::TaskResult ScsiBus::find_unit(const ScsiAddress& address) const {
  MutexLock lock(mutex_);
  Slot* slot;
  return find_task_set(address, slot);
}

ScsiBus::TaskResult ScsiBus::query(const ScsiAddress& address, TaskScope scope,
                                   uint64_t tag) const {
  MutexLock lock(mutex_);
  Slot* slot;
  const TaskResult found = find_task_set(address, slot);
  if (slot == nullptr) return found;
  for (const Task* task = slot->tasks; task != nullptr; task = task->next) {
    if (scope == TaskScope::kTaskSet || task->request.tag == tag) return TaskResult::kSucceeded;
  }
  return TaskResult::kComplete;
}

/// The units that are meant, kept where they are until let_go(). One that leaves is among them as
/// long as it has requests, which count for whoever waits for those of its target; idle, it stays
/// idle.
ScsiBus::Slots ScsiBus::use(const Selection& selection) {
  Slots slots;
  for (const auto& slot : slots_) {
    if (!selection.has(*slot) || slot->gone_but_for_main()) continue;
    ++slot->users;
    slots.push_back(slot.get());
  }
  return slots;
}

void ScsiBus::let_go(const Slots& slots) {
  bool leaving = false;
  {
    MutexLock lock(mutex_);
    for (Slot* slot : slots) {
      --slot->users;
      leaving |= slot->leaving;
    }
  }
  if (leaving) tell_unused();
}

/// With `reset` the units are reset, and tell it.
ScsiBus::TaskResult ScsiBus::co_cancel(Co& co, const Selection& selection, End end,
                                       const ScsiSense* reset) {
  Waiter self(co.coroutine(), selection);
  Slots slots;
  bool waits;
  {
    MutexLock lock(mutex_);
    slots = use(selection);
    self.last_serial = last_serial_;
    for (Slot* slot : slots) {
      for (Task* task = slot->tasks; task != nullptr; task = task->next) {
        if (!self.waits_for(*task)) continue;
        task->request.cancel(end);
        ++self.left;
      }
      if (reset != nullptr) slot->attentions.establish(*reset);
    }
    waits = self.left != 0;
    if (waits) self.next = std::exchange(waiters_, &self);
  }
  for (const Slot* slot : slots) {
    slot->unit->wake_cancelled();
    if (reset != nullptr) slot->unit->reset();
  }
  let_go(slots);  // one may go while another's requests do not end
  // Nothing in between suspends, so the wake is for this.
  if (waits) co.yield();
  return TaskResult::kComplete;
}

ScsiBus::TaskResult ScsiBus::co_abort(Co& co, const ScsiAddress& address, TaskScope scope,
                                      uint64_t tag) {
  const auto what = scope == TaskScope::kTask ? Selection::What::kTask : Selection::What::kUnit;
  if (const auto found = find_unit(address); found != TaskResult::kComplete) return found;
  return co_cancel(co, {.what = what, .address = address, .tag = tag}, End::kAborted, nullptr);
}

ScsiBus::TaskResult ScsiBus::co_reset_unit(Co& co, const ScsiAddress& address) {
  if (const auto found = find_unit(address); found != TaskResult::kComplete) return found;
  return co_cancel(co, {.what = Selection::What::kUnit, .address = address}, End::kReset,
                   &sense::kDeviceReset);
}

ScsiBus::TaskResult ScsiBus::co_reset_target(Co& co, const ScsiAddress& address) {
  if (find_unit(address) == TaskResult::kNoTarget) return TaskResult::kNoTarget;
  return co_cancel(co, {.what = Selection::What::kTarget, .address = address}, End::kReset,
                   &sense::kNexusLoss);
}

void ScsiBus::cancel(End end, const std::function<bool(const ScsiRequest&)>& which) {
  Slots slots;
  {
    MutexLock lock(mutex_);
    for (const auto& slot : slots_) {
      bool any = false;
      for (Task* task = slot->tasks; task != nullptr; task = task->next) {
        if (!which(task->request)) continue;
        task->request.cancel(end);
        any = true;
      }
      if (!any) continue;
      ++slot->users;
      slots.push_back(slot.get());
    }
  }
  for (const Slot* slot : slots) slot->unit->wake_cancelled();
  let_go(slots);
}

void ScsiBus::reset() {
  Slots slots;
  {
    MutexLock lock(mutex_);
    for (const auto& slot : slots_) {
      slot->cancel_all(End::kReset);
      slot->attentions.establish(sense::kBusReset);
      ++slot->users;
      slots.push_back(slot.get());
    }
    // The driver that comes has read nothing.
    luns_read_.assign(luns_read_.size(), false);
  }
  for (const Slot* slot : slots) {
    slot->unit->wake_cancelled();
    slot->unit->reset();
  }
  let_go(slots);
}

}  // namespace rhea::devices
