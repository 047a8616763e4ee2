// The passes over RAM while the machine runs, and the one after it has stopped.
#include <algorithm>
#include <utility>

#include "migration/source.h"
#include "util/sync_point.h"

namespace rhea::migration {

Result<void> Source::copy_while_running() {
  scan_->mark_all();
  Pass pass;
  pass.dirty_after = scan_->begin_pass();
  do {
    pass.dirty_before = pass.dirty_after;
    progress_.with([&](Progress& p) { p.remaining_pages = pass.dirty_before; });
    const uint64_t bytes_before = sent_bytes();
    const PageCounts pages_before = ram_->counts();
    TRY(send_pass());
    const PageCounts pages = ram_->counts();
    pass.took = lap();
    pass.sent_bytes = sent_bytes() - bytes_before;
    pass.sent_pages = pages.normal + pages.zero - pages_before.normal - pages_before.zero;
    pass.dirty_after = scan_->begin_pass();
  } while (!TRY(converged(pass)));
  return ok();
}

Result<void> Source::send_pass() {
  const uint64_t number = progress_.with([](Progress& p) { return ++p.passes; });
  TRY(main_.call([this, number]() -> Result<void> {
    bql.assert_held();
    parts_.observer.pass_begins(number);
    return ok();
  }));
  if (number == 1) set_status(Status::kActive);
  while (const auto batch = scan_->next(kMaxFramePages)) {
    TRY(hear_refusal());
    if (auto sent = ram_->send(*batch); !sent) return their_reason(std::move(sent).error());
    const PageCounts counts = ram_->counts();
    progress_.with([&](Progress& p) {
      p.normal_pages = counts.normal;
      p.zero_pages = counts.zero;
      p.remaining_pages -= std::min(p.remaining_pages, uint64_t{batch->pages.size()});
    });
  }
  RHEA_SYNC_POINT("Source: a pass is sent");
  if (auto ended = ram_->end_pass(number); !ended) return their_reason(std::move(ended).error());
  const PageCounts counts = ram_->counts();
  progress_.with([&](Progress& p) {
    p.normal_pages = counts.normal;
    p.zero_pages = counts.zero;
  });
  return ok();
}

// A channel that breaks may be the destination's way to end it all: what it says of that is on its
// way on the main connection.
Error Source::their_reason(Error ours) {
  constexpr auto kPatience = std::chrono::seconds(1);
  if (options_.ram.channels == 0 || cancel_->cancelled() || !channel_->readable(kPatience))
    return ours;
  const auto heard = hear_refusal();
  return heard || heard.error().kind() == ErrorKind::kIo ? ours : heard.error();
}

// A destination that finds something wrong says so at any time. Else it says nothing before END.
Result<void> Source::hear_refusal() {
  if (!channel_->two_way() || !channel_->readable()) return ok();
  const Frame frame = TRY(link_->receive());
  if (frame.kind == FrameKind::kRefused)
    return fail(ErrorKind::kInvalidArgument, "The destination gives up: {}", frame.text());
  return fail(ErrorKind::kCorrupt, "The destination sends '{}' in the middle of RAM",
              to_string(frame.kind));
}

/// Whether it is time to stop the machine; if not, it may have to write less from here on.
Result<bool> Source::converged(const Pass& pass) {
  // relaxed: the user's wish; the next pass looks again
  const Nanoseconds downtime(downtime_limit_.load(std::memory_order_relaxed));
  const ThrottleParameters parameters =
      throttle_.with([](const ThrottleParameters& p) { return p; });
  const Verdict verdict = convergence_.judge(pass, {downtime, options_.auto_converge, parameters});
  const unsigned percent = progress_.with([&](Progress& p) {
    p.phases.passes.push_back(pass.took);
    p.remaining_pages = pass.dirty_after;
    p.bytes_per_s = verdict.bytes_per_s;
    p.pages_per_s = verdict.pages_per_s;
    p.dirty_pages_per_s = verdict.dirty_pages_per_s;
    p.expected_downtime = verdict.expected_downtime;
    p.stall = verdict.stall;
    return p.cpu_throttle_percent;
  });
  if (verdict.throttle_percent != percent) {
    TRY(main_.call([&]() -> Result<void> {
      bql.assert_held();
      throttle(verdict.throttle_percent);
      return ok();
    }));
  }
  return verdict.enough;
}

/// The one place where the machine's speed is changed; how it is lifted, whatever the end, too.
void Source::throttle(unsigned percent) {
  const unsigned before = progress_.with(
      [percent](Progress& p) { return std::exchange(p.cpu_throttle_percent, percent); });
  if (before != percent) parts_.machine.throttle(percent);
}

}  // namespace rhea::migration
