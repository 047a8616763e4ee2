#include "devices/scsi/scsi_tray.h"

namespace rhea::devices {

ScsiTray::Readiness ScsiTray::readiness() const {
  MutexLock lock(mutex_);
  if (position_ == ScsiTrayPosition::kOpen) return Readiness::kOpen;
  return has_medium_ ? Readiness::kReady : Readiness::kNoMedium;
}

ScsiTrayPosition ScsiTray::position() const {
  MutexLock lock(mutex_);
  return position_;
}

bool ScsiTray::has_medium() const {
  MutexLock lock(mutex_);
  return has_medium_;
}

bool ScsiTray::locked() const {
  MutexLock lock(mutex_);
  return locked_;
}

void ScsiTray::set_lock(Lock wanted) {
  MutexLock lock(mutex_);
  locked_ = wanted == Lock::kOn;
}

void ScsiTray::reset() {
  MutexLock lock(mutex_);
  locked_ = eject_requested_ = false;
}

void ScsiTray::moved(ScsiTrayPosition now) {
  position_ = now;
  // Two are left out together, so that what is told still goes to and fro, and ends where it is.
  if (++untold_ > kMostUntold) untold_ -= 2;
}

ScsiTray::Move ScsiTray::open(Force force) {
  MutexLock lock(mutex_);
  if (position_ == ScsiTrayPosition::kOpen) return Move::kWasThere;
  if (locked_ && force == Force::kNo) return Move::kLocked;
  moved(ScsiTrayPosition::kOpen);
  eject_requested_ = false;
  event_ = has_medium_ ? Event::kRemoval : Event::kNone;
  return Move::kMoved;
}

ScsiTray::Move ScsiTray::close() {
  MutexLock lock(mutex_);
  if (position_ == ScsiTrayPosition::kClosed) return Move::kWasThere;
  moved(ScsiTrayPosition::kClosed);
  if (has_medium_) event_ = Event::kNewMedium;
  return Move::kMoved;
}

void ScsiTray::tell_later() {
  loop_.service().post([self = shared_from_this()] {
    bql.assert_held();
    self->tell();
  });
}

void ScsiTray::tell() {
  for (;;) {
    ScsiTrayPosition then;
    {
      MutexLock lock(mutex_);
      if (untold_ == 0) return;
      const bool ends_open = position_ == ScsiTrayPosition::kOpen;
      then = ends_open == (untold_ % 2 == 1) ? ScsiTrayPosition::kOpen : ScsiTrayPosition::kClosed;
      --untold_;
    }
    sink_.tray_moved(device_, then);
  }
}

void ScsiTray::request_eject() {
  MutexLock lock(mutex_);
  eject_requested_ = true;
}

ScsiTray::Event ScsiTray::take_event() {
  MutexLock lock(mutex_);
  if (event_ != Event::kNone) return std::exchange(event_, Event::kNone);
  return std::exchange(eject_requested_, false) ? Event::kEjectRequest : Event::kNone;
}

ScsiTrayPosition ScsiTray::set_medium(bool there) {
  MutexLock lock(mutex_);
  has_medium_ = there;
  if (position_ == ScsiTrayPosition::kClosed) event_ = there ? Event::kNewMedium : Event::kRemoval;
  return position_;
}

ScsiUnitState ScsiTray::saved() const {
  MutexLock lock(mutex_);
  return {.has_medium = has_medium_,
          .tray_open = position_ == ScsiTrayPosition::kOpen,
          .tray_locked = locked_,
          .eject_requested = eject_requested_,
          .medium_event = std::to_underlying(event_)};
}

Result<void> ScsiTray::check(const ScsiUnitState& state) {
  if (state.medium_event == std::to_underlying(Event::kNone) ||
      state.medium_event == std::to_underlying(Event::kNewMedium) ||
      state.medium_event == std::to_underlying(Event::kRemoval)) {
    return ok();
  }
  return fail(ErrorKind::kCorrupt, "field 'unit.medium_event': {} is none that waits",
              state.medium_event);
}

void ScsiTray::load(const ScsiUnitState& state) {
  MutexLock lock(mutex_);
  position_ = state.tray_open ? ScsiTrayPosition::kOpen : ScsiTrayPosition::kClosed;
  locked_ = state.tray_locked;
  eject_requested_ = state.eject_requested;
  event_ = Event{state.medium_event};
  untold_ = 0;
}

}  // namespace rhea::devices
