// ScsiUnit: a logical unit: a disk, a CD drive.
#pragma once

#include <cstdint>
#include <string>

#include "devices/scsi/scsi_request.h"
#include "devices/scsi/scsi_state.h"
#include "util/bql.h"
#include "util/coroutine.h"

namespace rhea::devices {

class ScsiUnit;

/// Whom a unit tells of what its initiator is to learn: the bus it sits on.
/// Thread: any.
class ScsiUnitOwner {
 public:
  virtual ~ScsiUnitOwner() = default;
  /// A unit attention condition for the unit's initiator [SAM-5 5.14].
  virtual void attention(ScsiUnit& unit, const ScsiSense& sense) = 0;
};

/// A logical unit's command set. The bus has dealt with unit attentions, REPORT LUNS and REQUEST
/// SENSE, keeps the requests under way and cancels them.
///
/// Thread: BQL for what is marked so; execute() and reset() on any context, several at once.
/// Invariants: unrealized with no request under way; destroyed by the last share, on main.
class ScsiUnit {
 public:
  virtual ~ScsiUnit() = default;
  ScsiUnit(const ScsiUnit&) = delete;
  ScsiUnit& operator=(const ScsiUnit&) = delete;

  /// "lun0", or its path if it has no id.
  const std::string& name() const noexcept { return name_; }
  const ScsiAddress& address() const noexcept { return address_; }
  /// Before it is on a bus; null once it has left.
  void set_owner(ScsiUnitOwner* owner) { owner_ = owner; }

  /// Errors: those of the block graph (no such node, permissions).
  virtual Result<void> realize() REQUIRES(bql) = 0;
  /// Whether the host does nothing for it but its commands, which the bus knows.
  virtual bool idle() const noexcept { return true; }
  /// It is on no bus and has no request. Main, at the top.
  virtual void unrealize() REQUIRES(bql) = 0;

  /// The machine goes on: commands that an I/O error has stopped are made again.
  virtual void machine_runs() REQUIRES(bql) {}
  /// What has to be equal where its state is loaded; see Device.
  virtual std::string settings() const REQUIRES(bql) { return {}; }
  // Migration: the machine is stopped, and nothing is under way but what waits for it to go on.
  virtual ScsiUnitState state() const REQUIRES(bql) { return {}; }
  /// Whether it could be so. Errors: kCorrupt.
  virtual Result<void> check_state(const ScsiUnitState&) const REQUIRES(bql) { return ok(); }
  virtual void set_state(const ScsiUnitState&) REQUIRES(bql) {}

  /// Whether a host adapter may tell of the unit's changes besides what its attentions say. Of an
  /// MMC unit it must not. [virtio-1.2 5.6.6.3.2]
  virtual bool changes_are_events() const noexcept { return true; }

  /// Carries out one command to its end.
  virtual ScsiOutcome execute(Co& co, ScsiRequest& request) = 0;
  /// Wakes what is parked for the machine to go on and has been cancelled. Any thread.
  virtual void wake_cancelled() = 0;
  /// Forgets what initiators have set (mode pages, prevented removal): a hard reset, a logical unit
  /// reset. Its requests have been cancelled, and may still be ending. Any thread.
  virtual void reset() = 0;

 protected:
  ScsiUnit(std::string name, const ScsiAddress& address)
      : name_(std::move(name)), address_(address) {}
  ScsiUnitOwner* owner() const noexcept { return owner_; }

 private:
  const std::string name_;
  const ScsiAddress address_;
  ScsiUnitOwner* owner_ = nullptr;  // changes while nothing of the unit runs
};

}  // namespace rhea::devices
