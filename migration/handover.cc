#include "migration/handover.h"

namespace rhea::migration {
namespace {

constexpr SourceStep stay(SourceState state) { return {state, SourceAction::kNothing}; }
constexpr TargetStep stay(TargetState state) { return {state, TargetAction::kNothing}; }

// The locks never left: it can run again at once.
SourceStep sent(SourceEvent event) {
  switch (event) {
    case SourceEvent::kReady:
      return {SourceState::kReleased, SourceAction::kRelease};
    case SourceEvent::kTaken:
    case SourceEvent::kNotTaken:
      return stay(SourceState::kSent);
    case SourceEvent::kAck:  // for locks that were not released
    case SourceEvent::kRefused:
    case SourceEvent::kLost:
    case SourceEvent::kCancel:
      break;
  }
  return {SourceState::kResumed, SourceAction::kResume};
}

// The destination may hold the locks by now. It has no GO, so it will give them up.
SourceStep released(SourceEvent event) {
  switch (event) {
    case SourceEvent::kAck:
      return {SourceState::kCommitted, SourceAction::kGo};
    case SourceEvent::kTaken:
    case SourceEvent::kNotTaken:
      return stay(SourceState::kReleased);
    case SourceEvent::kReady:  // a second one
    case SourceEvent::kRefused:
    case SourceEvent::kLost:
    case SourceEvent::kCancel:
      break;
  }
  return {SourceState::kRetaking, SourceAction::kRetake};
}

SourceStep retaking(SourceEvent event) {
  if (event == SourceEvent::kTaken) return {SourceState::kResumed, SourceAction::kResume};
  if (event == SourceEvent::kNotTaken) return {SourceState::kLocked, SourceAction::kStayPaused};
  return stay(SourceState::kRetaking);  // the link is closed: a late ACK is nobody's GO
}

TargetStep loading(TargetEvent event) {
  switch (event) {
    case TargetEvent::kLoaded:
      return {TargetState::kReady, TargetAction::kSendReady};
    case TargetEvent::kInvalid:
    case TargetEvent::kReleased:
    case TargetEvent::kGo:
      return {TargetState::kGone, TargetAction::kRefuse};
    case TargetEvent::kTaken:
    case TargetEvent::kNotTaken:
      return stay(TargetState::kLoading);
    case TargetEvent::kLost:
      break;
  }
  return {TargetState::kGone, TargetAction::kEnd};
}

// Without RELEASED the source may resume, or has: this copy is of no use.
TargetStep ready(TargetEvent event, TakeOver how) {
  switch (event) {
    case TargetEvent::kReleased:
      if (how == TakeOver::kLockAndRun) return {TargetState::kLocking, TargetAction::kTake};
      return {TargetState::kAcked, TargetAction::kSendAck};
    case TargetEvent::kTaken:
    case TargetEvent::kNotTaken:
      return stay(TargetState::kReady);
    case TargetEvent::kLoaded:
    case TargetEvent::kInvalid:
    case TargetEvent::kGo:
      return {TargetState::kGone, TargetAction::kRefuse};
    case TargetEvent::kLost:
      break;
  }
  return {TargetState::kGone, TargetAction::kEnd};
}

// No ACK was sent yet: the source cannot have committed.
TargetStep locking(TargetEvent event) {
  switch (event) {
    case TargetEvent::kTaken:
      return {TargetState::kAcked, TargetAction::kSendAck};
    case TargetEvent::kLost:
      return {TargetState::kGone, TargetAction::kEnd};
    case TargetEvent::kNotTaken:
    case TargetEvent::kLoaded:
    case TargetEvent::kInvalid:
    case TargetEvent::kReleased:
    case TargetEvent::kGo:
      break;
  }
  return {TargetState::kGone, TargetAction::kRefuse};
}

// ACK may have been heard, even if sending it seemed to fail: this may be the only copy that is
// allowed to run. It is kept, and it does not run.
TargetStep acked(TargetEvent event, TakeOver how) {
  switch (event) {
    case TargetEvent::kGo:
      if (how == TakeOver::kLockAndRun) return {TargetState::kRunning, TargetAction::kRun};
      if (how == TakeOver::kLockLate) return {TargetState::kLateLocking, TargetAction::kTake};
      return {TargetState::kArrived, TargetAction::kArrive};
    case TargetEvent::kTaken:
    case TargetEvent::kNotTaken:
      return stay(TargetState::kAcked);
    case TargetEvent::kLoaded:
    case TargetEvent::kInvalid:
    case TargetEvent::kReleased:
    case TargetEvent::kLost:
      break;
  }
  return {TargetState::kUnconfirmed, TargetAction::kGiveUp};
}

TargetStep late_locking(TargetEvent event) {
  if (event == TargetEvent::kTaken) return {TargetState::kRunning, TargetAction::kRun};
  if (event == TargetEvent::kNotTaken) return {TargetState::kUnconfirmed, TargetAction::kGiveUp};
  return stay(TargetState::kLateLocking);  // GO is in: the link has done its work
}

}  // namespace

SourceStep source_step(SourceState state, SourceEvent event) noexcept {
  switch (state) {
    case SourceState::kSent:
      return sent(event);
    case SourceState::kReleased:
      return released(event);
    case SourceState::kRetaking:
      return retaking(event);
    case SourceState::kCommitted:  // whatever happens now: never by itself
    case SourceState::kResumed:
    case SourceState::kLocked:
      break;
  }
  return stay(state);
}

TargetStep target_step(TargetState state, TargetEvent event, TakeOver how) noexcept {
  switch (state) {
    case TargetState::kLoading:
      return loading(event);
    case TargetState::kReady:
      return ready(event, how);
    case TargetState::kLocking:
      return locking(event);
    case TargetState::kAcked:
      return acked(event, how);
    case TargetState::kLateLocking:
      return late_locking(event);
    case TargetState::kRunning:
    case TargetState::kArrived:
    case TargetState::kUnconfirmed:
    case TargetState::kGone:
      break;
  }
  return stay(state);
}

std::string_view to_string(SourceState state) noexcept {
  switch (state) {
    case SourceState::kSent:
      return "sent";
    case SourceState::kReleased:
      return "released";
    case SourceState::kRetaking:
      return "retaking";
    case SourceState::kCommitted:
      return "committed";
    case SourceState::kResumed:
      return "resumed";
    case SourceState::kLocked:
      return "locked";
  }
  return "?";
}

std::string_view to_string(TargetState state) noexcept {
  switch (state) {
    case TargetState::kLoading:
      return "loading";
    case TargetState::kReady:
      return "ready";
    case TargetState::kLocking:
      return "locking";
    case TargetState::kAcked:
      return "acked";
    case TargetState::kLateLocking:
      return "late-locking";
    case TargetState::kRunning:
      return "running";
    case TargetState::kArrived:
      return "arrived";
    case TargetState::kUnconfirmed:
      return "unconfirmed";
    case TargetState::kGone:
      return "gone";
  }
  return "?";
}

}  // namespace rhea::migration
