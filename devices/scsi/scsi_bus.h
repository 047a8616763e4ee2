// ScsiBus: the logical units of one host adapter, and the state of its targets. [SAM-5]
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/scsi/scsi_unit.h"
#include "util/co_sync.h"
#include "util/error.h"
#include "util/main_loop.h"
#include "util/mutex.h"

namespace rhea::devices {

/// What the host adapter does when its bus changes.
/// Thread: BQL for units that come and go; any for attention().
class ScsiBusListener {
 public:
  virtual ~ScsiBusListener() = default;
  virtual void unit_added(const ScsiAddress& address) REQUIRES(bql) = 0;
  virtual void unit_removed(const ScsiAddress& address) REQUIRES(bql) = 0;
  /// A unit has something new to say of itself (its capacity, its medium).
  virtual void unit_changed(const ScsiAddress& address, const ScsiSense& sense) = 0;
};

/// Units by address, their requests and their unit attentions.
///
/// All of it is under one lock, taken once as a request begins and once as it ends, never across a
/// wait: requests of several queues run on several threads, and task management sees them all.
///
/// A target is there as long as it has a unit; at its other LUNs it answers for itself: INQUIRY
/// says that no unit is there, REPORT LUNS lists those that are, other commands get LOGICAL UNIT
/// NOT SUPPORTED. [SPC-4 6.6.2, 6.35]
///
/// Thread: units come and go on main with the BQL; requests and task management on any context.
/// Owns: a share of each unit. Invariants: destroyed without units.
class ScsiBus final : private ScsiUnitOwner {
 public:
  struct Limits {
    uint8_t channels = 1;
    uint16_t targets = 256;
    uint16_t luns = 16384;
  };
  /// `name` is what bus= says: "scsi0.0".
  ScsiBus(std::string name, const Limits& limits, MainLoop& loop);
  ~ScsiBus() override;
  ScsiBus(const ScsiBus&) = delete;
  ScsiBus& operator=(const ScsiBus&) = delete;

  const std::string& name() const noexcept { return name_; }
  /// Before the first unit; null detaches.
  void set_listener(ScsiBusListener* listener) { listener_ = listener; }

  /// Where a unit may go, of what the user has said of its place; QEMU's choice of the rest:
  /// without a target the first that is free, without a LUN the first that is free there. Errors:
  /// kInvalidArgument, out of the bus's limits; kExists; kResource, all is taken.
  struct Place {
    uint64_t channel = 0;
    std::optional<uint64_t> target, lun;
  };
  Result<ScsiAddress> choose(const Place& place) const REQUIRES(bql);
  /// Puts a realized unit where its address says; other units of the target hear that the list of
  /// LUNs has changed. Errors: kExists.
  Result<void> add(std::shared_ptr<ScsiUnit> unit) REQUIRES(bql);
  /// Takes a unit out: nobody finds it any more, its requests are cancelled and waited for.
  /// Errors: kTimeout, one does not end within `patience`: the unit is back where it was, and goes
  /// on. Main, at the top.
  Result<void> remove(ScsiUnit& unit, Nanoseconds patience = kPatience) REQUIRES(bql);
  static constexpr Nanoseconds kPatience = std::chrono::seconds(5);
  /// In the order of their addresses.
  std::vector<std::shared_ptr<ScsiUnit>> units() const REQUIRES(bql);

  // From here on any context.

  /// Carries out a command, of whatever unit or target is at `address`.
  ScsiOutcome execute(Co& co, const ScsiAddress& address, ScsiRequest& request);

  /// Task management [SAM-5 7]. kNoTarget, kIncorrectLun: nothing is there.
  enum class TaskResult : uint8_t { kComplete, kSucceeded, kNoTarget, kIncorrectLun };
  enum class TaskScope : uint8_t { kTask, kTaskSet };
  /// Whether a task, or any task, is under way: kSucceeded if so.
  TaskResult query(const ScsiAddress& address, TaskScope scope, uint64_t tag);
  /// Cancels a task, or all of a unit, and waits until they have ended.
  TaskResult co_abort(Co& co, const ScsiAddress& address, TaskScope scope, uint64_t tag);
  /// Cancels all of a unit, and resets it.
  TaskResult co_reset_unit(Co& co, const ScsiAddress& address);
  /// The same for each unit of a target (an I_T nexus reset).
  TaskResult co_reset_target(Co& co, const ScsiAddress& address);
  /// The adapter's reset: cancels all, waits for nothing. Its queues wait for what it has taken.
  void reset() REQUIRES(bql);

 private:
  void attention(ScsiUnit& unit, const ScsiSense& sense) override;

  const std::string name_;
  ScsiBusListener* listener_ = nullptr;
};

}  // namespace rhea::devices
