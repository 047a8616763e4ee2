// What a ScsiBus is made of. Everything here is under its lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_bus.h"
#include "devices/scsi/unit_attentions.h"

namespace rhea::devices {

/// A request under way at a unit, on its coroutine's stack.
struct ScsiBus::Task {
  explicit Task(ScsiRequest& r) : request(r) {}
  ScsiRequest& request;
  Slot* slot = nullptr;
  uint64_t serial = 0;  // in the order of beginning
  Task* next = nullptr;
  Task** link = nullptr;  // what points here
};

/// A unit on the bus.
struct ScsiBus::Slot {
  explicit Slot(std::shared_ptr<ScsiUnit> u) : unit(std::move(u)) {}
  static const ScsiAddress& address_of(const std::unique_ptr<Slot>& slot) {
    return slot->unit->address();
  }

  void list(Task& task) {
    task.slot = this;
    task.link = &tasks;
    task.next = std::exchange(tasks, &task);
    if (task.next != nullptr) task.next->link = &task.next;
    ++users;
  }
  void unlist(Task& task) {
    *task.link = task.next;
    if (task.next != nullptr) task.next->link = task.link;
    --users;
  }
  void cancel_all(ScsiOutcome::End end) {
    for (Task* task = tasks; task != nullptr; task = task->next) task->request.cancel(end);
  }
  /// It leaves, and main alone has not taken it out yet.
  bool gone_but_for_main() const { return leaving && tasks == nullptr; }

  const std::shared_ptr<ScsiUnit> unit;
  UnitAttentions attentions;
  Task* tasks = nullptr;
  uint32_t users = 0;    // its tasks, and who manages them without the lock: they keep it here
  bool leaving = false;  // out of sight for whoever comes
  std::function<void()> look;  // while it leaves; main's
};

/// Who answers a command.
struct ScsiBus::Admission {
  enum class By : uint8_t {
    kNobody,
    kRefusal,
    kReportLuns,
    kRequestSense,
    kWellKnownUnit,
    kNoUnit,
    kUnit
  };
  By by = By::kNobody;
  ScsiOutcome refusal{};
  ScsiSense sense{};
  std::vector<uint16_t> luns{};
};

/// Which tasks a task management function means.
struct ScsiBus::Selection {
  enum class What : uint8_t { kTask, kUnit, kTarget };
  What what;
  ScsiAddress address;
  uint64_t tag = 0;

  bool has(const Slot& slot) const {
    const ScsiAddress& other = slot.unit->address();
    return what == What::kTarget
               ? other.channel == address.channel && other.target == address.target
               : other == address;
  }
  bool has(const Task& task) const {
    return has(*task.slot) && (what != What::kTask || task.request.tag == tag);
  }
};

/// A coroutine that waits for tasks to end.
struct ScsiBus::Waiter {
  Waiter(Coroutine& c, const Selection& s) : coroutine(c), selection(s) {}
  bool waits_for(const Task& task) const {
    return task.serial <= last_serial && selection.has(task);
  }

  Coroutine& coroutine;
  const Selection& selection;
  uint64_t last_serial = 0;  // tasks that began later are not its business
  uint32_t left = 0;
  Waiter* next = nullptr;
};

}  // namespace rhea::devices
