// ScsiTray: the tray of a CD drive: open or shut, locked or not, with a medium on it or none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "devices/scsi/scsi_state.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/main_loop.h"
#include "util/mutex.h"

namespace rhea::devices {

enum class ScsiTrayPosition : uint8_t { kClosed, kOpen };

/// Who is told when a tray has moved: a monitor.
/// Thread: main, service context or below a call of the user's.
class ScsiTraySink {
 public:
  virtual ~ScsiTraySink() = default;
  virtual void tray_moved(const std::string& device, ScsiTrayPosition now) REQUIRES(bql) = 0;
};

/// Both the guest (START STOP UNIT) and the user (a monitor's command) move it; the guest can lock
/// it, and then the user asks it to let go. What has happened is kept until the guest polls for it.
///
/// Thread: any, but for what is marked. Shared with what it has posted to main, which may outlive
/// the drive.
class ScsiTray : public std::enable_shared_from_this<ScsiTray> {
 public:
  enum class Readiness : uint8_t { kReady, kNoMedium, kOpen };
  enum class Move : uint8_t { kMoved, kWasThere, kLocked };
  enum class Force : uint8_t { kNo, kYes };
  enum class Lock : uint8_t { kOff, kOn };
  /// What GET EVENT STATUS NOTIFICATION tells of the medium. [MMC-6]
  enum class Event : uint8_t { kNone = 0, kEjectRequest = 1, kNewMedium = 2, kRemoval = 3 };

  /// `sink` outlives it, and what it has posted to `loop`.
  ScsiTray(std::string device, MainLoop& loop, ScsiTraySink& sink)
      : device_(std::move(device)), loop_(loop), sink_(sink) {}
  ScsiTray(const ScsiTray&) = delete;
  ScsiTray& operator=(const ScsiTray&) = delete;

  Readiness readiness() const;
  ScsiTrayPosition position() const;
  bool has_medium() const;
  bool locked() const;
  void set_lock(Lock lock);
  /// Forgets what the guest has set.
  void reset();

  /// A lock holds, unless it is forced open.
  Move open(Force force);
  Move close();
  /// Tells the sink, on main, soon.
  void tell_later();
  /// Tells the sink now of all that it has not been told of.
  void tell() REQUIRES(bql);

  // Migration. Where a tray was on the other side is no move that anybody is told of.
  ScsiUnitState saved() const;
  static Result<void> check(const ScsiUnitState& state);
  void load(const ScsiUnitState& state);

  /// The guest hears that somebody wants the medium.
  void request_eject();
  /// The oldest of what the guest was not told of.
  Event take_event();
  /// What lies on the tray; where the tray is now: the guest may have shut it meanwhile.
  ScsiTrayPosition set_medium(bool there) REQUIRES(bql);

 private:
  /// More than anybody wants to hear of at once: a guest that plays with its tray gets no more.
  static constexpr uint32_t kMostUntold = 64;

  void moved(ScsiTrayPosition now) REQUIRES(mutex_);

  const std::string device_;
  MainLoop& loop_;
  ScsiTraySink& sink_;
  mutable Mutex mutex_{LockRank::kLeaf};
  ScsiTrayPosition position_ GUARDED_BY(mutex_) = ScsiTrayPosition::kClosed;
  bool has_medium_ GUARDED_BY(mutex_) = false;
  bool locked_ GUARDED_BY(mutex_) = false;
  bool eject_requested_ GUARDED_BY(mutex_) = false;
  Event event_ GUARDED_BY(mutex_) = Event::kNone;
  uint32_t untold_ GUARDED_BY(mutex_) = 0;  // moves; each goes the other way than the one before
};

}  // namespace rhea::devices
