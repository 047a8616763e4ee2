// Hand-over: who may run the machine, from the moment all of its state has been sent.
//
// Two instances, a link that may break at any time, image locks that only one of them can hold.
// Never do both run. A guest that is stopped for good is the lesser evil, and has one small window:
//
//   source                                   destination
//   END sent, stopped                        kLoading: receives, validates
//   kSent                       <- READY     kReady
//   gives up its locks
//   kReleased      RELEASED ->               takes the locks
//                                 <- ACK     kAcked
//   kCommitted           GO ->               kRunning
//
// Two rules make it safe: no GO, no run; and once ACK is in, the source never resumes by itself. A
// destination that sent ACK and gets no GO cannot know whether it was heard. It gives its locks up
// and waits for a person, as does the source if GO did not arrive: that is the window, and no
// protocol has none.
//
// The two tables in handover.cc say what is done; the engine does it.
// tests/unit/migration/handover_test.cc walks both of them through every order of messages, losses,
// deaths and commands.
#pragma once

#include <cstdint>
#include <string_view>

namespace rhea::migration {

enum class SourceState : uint8_t {
  kSent,       ///< stopped, holds the locks, waits for READY
  kReleased,   ///< gave the locks up and said so, waits for ACK
  kRetaking,   ///< the destination is lost: takes the locks back, for a while
  kCommitted,  ///< ACK is in: the machine is the destination's
  kResumed,    ///< runs again; the migration failed or was cancelled
  kLocked,     ///< stays paused: somebody else has the locks
};

enum class SourceEvent : uint8_t {
  kReady,
  kAck,
  kRefused,  ///< the destination says no, and why
  kLost,     ///< the link broke, or carries nonsense; one that is silent is waited for
  kCancel,   ///< the user's
  kTaken,    ///< the locks are back
  kNotTaken,
};

enum class SourceAction : uint8_t {
  kNothing,
  kRelease,     ///< give up the locks, then send RELEASED
  kGo,          ///< send GO, close; completed
  kRetake,      ///< close the link, then try to take the locks
  kResume,      ///< close the link, run
  kStayPaused,  ///< name what could not be locked
};

struct SourceStep {
  SourceState next;
  SourceAction action;
};

enum class TargetState : uint8_t {
  kLoading,
  kReady,        ///< all of the state is loaded and valid, and READY is sent
  kLocking,      ///< takes the locks
  kAcked,        ///< holds them (or is to take them later), and ACK is sent
  kLateLocking,  ///< GO is in, and the locks are taken now
  kRunning,
  kArrived,      ///< paused, as the machine was; `cont` takes the locks
  kUnconfirmed,  ///< paused, without locks: no GO, or nothing to lock; `cont` takes them
  kGone,         ///< the process ends with status 1
};

enum class TargetEvent : uint8_t {
  kLoaded,
  kInvalid,  ///< what came cannot be loaded
  kReleased,
  kGo,
  kLost,
  kTaken,
  kNotTaken,
};

enum class TargetAction : uint8_t {
  kNothing,
  kSendReady,
  kRefuse,  ///< say why, close, end with status 1
  kTake,    ///< take the locks
  kSendAck,
  kRun,
  kArrive,  ///< stay paused; completed
  kGiveUp,  ///< give up the locks; stay paused; failed, "hand-over not confirmed"
  kEnd,     ///< give up what is held; end with status 1
};

struct TargetStep {
  TargetState next;
  TargetAction action;
};

/// How the destination is to take the machine over.
enum class TakeOver : uint8_t {
  kLockAndRun,  ///< takes the locks before ACK, runs on GO
  kLockLate,    ///< late-block-activate: takes them on GO, then runs
  kArrive,      ///< the machine was paused, or -S: takes none, and stays paused
};

/// What the source does. An event that has no place in `state` and comes from the destination
/// counts as kLost; what comes from this side then changes nothing.
SourceStep source_step(SourceState state, SourceEvent event) noexcept;
/// What the destination does. The same goes for it.
TargetStep target_step(TargetState state, TargetEvent event, TakeOver how) noexcept;

std::string_view to_string(SourceState state) noexcept;
std::string_view to_string(TargetState state) noexcept;

}  // namespace rhea::migration
