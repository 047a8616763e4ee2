// What the source does at each step of the hand-over (handover.h), once END is sent.
#include <chrono>

#include "migration/source.h"
#include "util/log.h"

namespace rhea::migration {

// From the state that it is in; `why` says of an event why it is no good news.
Result<void> Source::hand_over(SourceEvent event, Error& why) {
  while (true) {
    const SourceStep step = source_step(state_, event);
    RHEA_LOG(kMigration, kDebug, "hand-over: {} -> {}", to_string(state_), to_string(step.next));
    state_ = step.next;
    switch (step.action) {
      case SourceAction::kNothing:
        break;
      case SourceAction::kRelease: {
        const Nanoseconds took = lap();
        progress_.with([took](Progress& p) { p.phases.load = took; });
        if (auto sent = release_locks(); !sent) {
          why = std::move(sent).error();
          event = SourceEvent::kLost;
          continue;
        }
        break;
      }
      case SourceAction::kGo:
        return commit();
      case SourceAction::kRetake:
        channel_.reset();
        event = retake_locks(why);
        continue;
      case SourceAction::kResume:
      case SourceAction::kStayPaused:
        return why;  // finish() does it
    }
    event = next_event(why);
  }
}

// What the destination says next. `why` is set if that is no good news.
SourceEvent Source::next_event(Error& why) {
  auto frame = link_->receive();
  if (!frame) {
    why = std::move(frame).error();
    return cancel_->cancelled() ? SourceEvent::kCancel : SourceEvent::kLost;
  }
  // Of no interest unless it is out of turn.
  why = fail(ErrorKind::kCorrupt, "The destination sends '{}' at the end", to_string(frame->kind));
  if (frame->kind == FrameKind::kReady) return SourceEvent::kReady;
  if (frame->kind == FrameKind::kAck)
    return cancelled_before_ack() ? SourceEvent::kCancel : SourceEvent::kAck;
  if (frame->kind == FrameKind::kRefused) {
    why = fail(ErrorKind::kInvalidArgument, "The destination gives up: {}", frame->text());
    return SourceEvent::kRefused;
  }
  return SourceEvent::kLost;
}

// Main decides which of the two was first. A cancel that threw the switch behind this would take GO
// away from a destination that needs it; one that came before is as good as a lost ACK.
bool Source::cancelled_before_ack() {
  const auto cancelled = main_.call([this]() -> Result<bool> {
    bql.assert_held();
    too_late_to_cancel_ = state_ == SourceState::kReleased && !cancel_->cancelled();
    return cancel_->cancelled();
  });
  return cancelled.value_or(true);  // the machine is being taken apart
}

Result<void> Source::release_locks() {
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    return parts_.machine.release_locks();
  }));
  return channel_->two_way() ? link_->send(FrameKind::kReleased) : ok();
}

// From here on the machine is the destination's, whether it hears of it or not.
Result<void> Source::leave() {
  return main_.call([this]() -> Result<void> {
    bql.assert_held();
    parts_.machine.leave();
    stopped_ = false;
    return ok();
  });
}

// Nobody answers: how long it stands still is told as far as it is known here.
Result<void> Source::leave_one_way() {
  TRY(leave());
  const Nanoseconds downtime = parts_.clock.now() - stopped_at_;
  progress_.with([downtime](Progress& p) { p.downtime = downtime; });
  return ok();
}

Result<void> Source::commit() {
  TRY(leave());
  auto sent = link_->send(FrameKind::kGo);
  channel_.reset();
  if (!sent)
    return std::move(sent).error().context(
        "The destination has taken the machine over, but may not know it: say 'cont' there, or "
        "here if it is lost");
  const Nanoseconds took = lap();
  progress_.with([&](Progress& p) {
    p.phases.resume = took;
    p.downtime = lap_began_ - stopped_at_;
  });
  return ok();
}

// The destination gives them up when it notices; somebody else may be quicker.
SourceEvent Source::retake_locks(Error& why) {
  constexpr auto kPause = std::chrono::milliseconds(50);
  const Nanoseconds until = parts_.clock.now() + options_.retake_patience;
  OneShotEvent nobody;
  while (true) {
    auto taken = main_.call([this]() -> Result<void> {
      bql.assert_held();
      return parts_.machine.take_locks();
    });
    if (taken) return SourceEvent::kTaken;
    if (parts_.clock.now() >= until || taken.error().kind() == ErrorKind::kCancelled) {
      why = std::move(why).context(
          fmt::format("The machine stays paused, because {}", taken.error().message()));
      return SourceEvent::kNotTaken;
    }
    static_cast<void>(nobody.wait_for(kPause));
  }
}

}  // namespace rhea::migration
