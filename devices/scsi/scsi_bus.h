// ScsiBus: the logical units of one host adapter, and the state of its targets. [SAM-5]
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/scsi/scsi_unit.h"
#include "util/error.h"
#include "util/main_loop.h"
#include "util/mutex.h"

namespace rhea::devices {

/// What the host adapter does when its bus changes.
/// Thread: BQL for units that come and go; any, with no lock, for unit_changed().
class ScsiBusListener {
 public:
  virtual ~ScsiBusListener() = default;
  virtual void unit_added(const ScsiAddress& address) REQUIRES(bql) = 0;
  virtual void unit_removed(const ScsiAddress& address) REQUIRES(bql) = 0;
  /// A unit has something new to say of itself (its capacity, its medium), and it may be an event.
  virtual void unit_changed(const ScsiAddress& address, const ScsiSense& sense) = 0;
};

/// Units by address, their requests and their unit attentions.
///
/// All of it is under one lock, taken once as a request begins and once as it ends, never across a
/// wait nor across a call of a unit: requests of several queues run on several threads, and task
/// management sees them all. A request lists itself from its coroutine's stack.
///
/// Who cancels requests counts, in the same critical section, those that it waits for, and leaves a
/// note. A request that ends leaves the list in a critical section that looks for such notes. So it
/// either has gone before it could be counted, or finds the note: no wake-up is lost, and nobody
/// waits for a request that came later.
///
/// A target is there as long as it has a unit; at its other LUNs it answers for itself: INQUIRY
/// says that no unit is there, REPORT LUNS lists those that are, other commands get LOGICAL UNIT
/// NOT SUPPORTED. LUN 0xc101 is the well-known unit that REPORT LUNS may be sent to.
/// [SPC-4 6.4.1, 6.33]
///
/// Thread: units come and go on main with the BQL; requests and task management on any context.
/// Owns: a share of each unit. Invariants: destroyed without units.
class ScsiBus final : private ScsiUnitOwner {
 public:
  /// The largest numbers, as an initiator sees them.
  struct Limits {
    uint8_t max_channel = 0;
    uint8_t max_target = 255;
    uint16_t max_lun = 16383;
  };
  /// `name` is what bus= says: "scsi0.0".
  ScsiBus(std::string name, const Limits& limits, MainLoop& loop);
  ~ScsiBus() override;
  ScsiBus(const ScsiBus&) = delete;
  ScsiBus& operator=(const ScsiBus&) = delete;

  const std::string& name() const noexcept { return name_; }
  const Limits& limits() const noexcept { return limits_; }
  /// Before the first unit; null detaches.
  void set_listener(ScsiBusListener* listener) { listener_ = listener; }

  /// Where a unit may go, of what the user has said of its place; QEMU's choice of the rest:
  /// without a target the first where its LUN (0, if none is said) is free, without a LUN the first
  /// that is free there. Errors, with QEMU's texts: kInvalidArgument, out of the bus's limits;
  /// kExists; kResource, all is taken.
  struct Place {
    uint64_t channel = 0;
    std::optional<uint64_t> target{}, lun{};
  };
  Result<ScsiAddress> choose(const Place& place) const REQUIRES(bql);
  /// The host adapter goes: no unit is there, no request is under way, and none comes any more. The
  /// rest of the bus may be destroyed on any thread.
  void close() REQUIRES(bql);

  /// Puts a realized unit where its address says, and tells it whose it is; other units of the
  /// target tell that the list of LUNs has changed. Errors: kExists.
  Result<void> add(std::shared_ptr<ScsiUnit> unit) REQUIRES(bql);

  // Leaving a machine that runs: what a unit has under way ends first, and nobody waits for it.
  // Main, service context.
  /// From now on nobody finds the unit, and its requests are cancelled: what the host does for them
  /// goes on to its end. `look` is called, on main, whenever idle() may have become true.
  void prepare_to_leave(ScsiUnit& unit, std::function<void()> look) REQUIRES(bql);
  /// Whether nothing is under way.
  bool idle(const ScsiUnit& unit) const REQUIRES(bql);
  /// Takes the unit out, and the guest hears of it. Errors: kTimeout, it is not idle() within
  /// `patience`. Main, at the top.
  Result<void> leave(ScsiUnit& unit, Nanoseconds patience = kPatience) REQUIRES(bql);
  /// After prepare_to_leave(), and unless leave() went well: it stays, and goes on. The guest hears
  /// of it as of a new one, as it may have looked meanwhile.
  void stay(ScsiUnit& unit) REQUIRES(bql);
  /// All of it at once. Errors: as leave(); the unit stays. Main, at the top.
  Result<void> remove(ScsiUnit& unit, Nanoseconds patience = kPatience) REQUIRES(bql);
  static constexpr Nanoseconds kPatience = std::chrono::seconds(5);

  /// In the order of their addresses.
  std::vector<std::shared_ptr<ScsiUnit>> units() const REQUIRES(bql);

  // Migration: the machine is stopped, and nothing is under way but what waits for it to go on.
  ScsiBusState state() const REQUIRES(bql);
  /// Whether it is of the same units. Errors: kCorrupt.
  Result<void> check_state(const ScsiBusState& state) const REQUIRES(bql);
  void set_state(const ScsiBusState& state) REQUIRES(bql);

  // From here on any context.

  /// Carries out a command, of whatever unit or target is at `address`.
  ScsiOutcome execute(Co& co, const ScsiAddress& address, ScsiRequest& request);

  /// Task management [SAM-5 7]. kNoTarget, kIncorrectLun: nothing is there.
  enum class TaskResult : uint8_t { kComplete, kSucceeded, kNoTarget, kIncorrectLun };
  enum class TaskScope : uint8_t { kTask, kTaskSet };
  /// Whether a unit is there: kComplete if so.
  TaskResult find_unit(const ScsiAddress& address) const;
  /// Whether a task, or any task, is under way: kSucceeded if so.
  TaskResult query(const ScsiAddress& address, TaskScope scope, uint64_t tag) const;
  /// Cancels a task, or all of a unit, and waits until they have ended.
  TaskResult co_abort(Co& co, const ScsiAddress& address, TaskScope scope, uint64_t tag);
  /// Cancels all of a unit, resets it, and waits likewise.
  TaskResult co_reset_unit(Co& co, const ScsiAddress& address);
  /// The same for each unit of a target (an I_T nexus reset).
  TaskResult co_reset_target(Co& co, const ScsiAddress& address);
  /// Cancels the requests that `which` picks, and wakes what is parked; waits for nothing.
  void cancel(ScsiOutcome::End end, const std::function<bool(const ScsiRequest&)>& which);
  /// The adapter's reset: cancels all, resets all, waits for nothing.
  void reset();

 private:
  struct Slot;
  struct Task;
  struct Admission;
  struct Selection;
  struct Waiter;
  using Slots = std::vector<Slot*>;

  void attention(ScsiUnit& unit, const ScsiSense& sense) override;

  Slot* find(const ScsiAddress& address) const REQUIRES(mutex_);
  Slot& slot_of(const ScsiUnit& unit) const REQUIRES(mutex_);
  std::shared_ptr<ScsiUnit> take_if_unused(const ScsiUnit& unit);
  void look_at_leaving() REQUIRES(bql);
  Slot* find_present(const ScsiAddress& address) const REQUIRES(mutex_);
  bool has_target(const ScsiAddress& address) const REQUIRES(mutex_);
  TaskResult find_task_set(const ScsiAddress& address, Slot*& slot) const REQUIRES(mutex_);
  Admission admit(const ScsiAddress& address, Task& task) REQUIRES(mutex_);
  std::vector<uint16_t> note_luns_read(const ScsiAddress& address) REQUIRES(mutex_);
  void luns_changed(const ScsiAddress& address) REQUIRES(mutex_);
  ScsiOutcome carry_out(Co& co, const Admission& admission, Task& task);
  void end(Task& task);
  Slots use(const Selection& selection) REQUIRES(mutex_);
  void let_go(const Slots& slots);
  void tell_unused();
  TaskResult co_cancel(Co& co, const Selection& selection, ScsiOutcome::End end,
                       const ScsiSense* reset);

  const std::string name_;
  const Limits limits_;
  MainLoop& loop_;
  ScsiBusListener* listener_ = nullptr;
  std::unique_ptr<Bh> look_bh_;  // goes on main: the bus itself may go on any thread

  mutable Mutex mutex_{LockRank::kDeviceQueue};
  std::vector<std::unique_ptr<Slot>> slots_ GUARDED_BY(mutex_);  // by address
  std::vector<bool> luns_read_ GUARDED_BY(mutex_);               // of each target
  Waiter* waiters_ GUARDED_BY(mutex_) = nullptr;
  uint64_t last_serial_ GUARDED_BY(mutex_) = 0;
};

}  // namespace rhea::devices
