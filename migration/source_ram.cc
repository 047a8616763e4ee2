// The passes over RAM while the machine runs, and the one after it has stopped.
#include <algorithm>
#include <chrono>

#include "migration/source.h"
#include "util/sync_point.h"

namespace rhea::migration {
namespace {

constexpr double kPage = memory::kDirtyPageBytes;

double seconds(Nanoseconds t) { return std::chrono::duration<double>(t).count(); }

}  // namespace

Result<void> Source::copy_while_running() {
  scan_->mark_all();
  uint64_t dirty = scan_->begin_pass();
  while (true) {
    const uint64_t sent_before = sent_bytes();
    progress_.with([dirty](Progress& p) { p.remaining_pages = dirty; });
    TRY(send_pass());
    const Nanoseconds took = lap();
    const uint64_t sent = sent_bytes() - sent_before;
    const uint64_t before = dirty;
    dirty = scan_->begin_pass();
    progress_.with([took](Progress& p) { p.phases.passes.push_back(took); });
    const bool enough = converged(dirty, took, sent);
    note_stall(enough ? 0 : dirty, before, took);
    if (enough) return ok();
  }
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

// Whether what is dirty now can be sent within the limit, at the speed of the pass before.
bool Source::converged(uint64_t dirty, Nanoseconds took, uint64_t sent_bytes) {
  const double speed = static_cast<double>(sent_bytes) / std::max(seconds(took), 1e-6);
  const double needed = static_cast<double>(dirty) * kPage / std::max(speed, 1.0);
  const auto expected =
      std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(std::min(needed, 1e6)));
  progress_.with([&](Progress& p) {
    p.remaining_pages = dirty;
    p.bytes_per_s = static_cast<uint64_t>(speed);
    p.dirty_pages_per_s =
        static_cast<uint64_t>(static_cast<double>(dirty) / std::max(seconds(took), 1e-6));
    p.expected_downtime = expected;
  });
  // relaxed: the user's wish; the next pass looks again
  return expected.count() <= downtime_limit_.load(std::memory_order_relaxed);
}

// A pass that leaves nearly as much as it began with: more of them will not help.
void Source::note_stall(uint64_t dirty, uint64_t before, Nanoseconds took) {
  progress_.with([&](Progress& p) {
    p.stall.clear();
    if (p.passes < 2 || dirty * 10 < before * 9) return;
    const double written = static_cast<double>(dirty) * kPage / std::max(seconds(took), 1e-6);
    p.stall = fmt::format(
        "the guest writes {:.0f} MiB/s to other pages, the connection carries {:.0f} MiB/s: "
        "a downtime-limit of {} ms would end it, or more bandwidth, or a guest that writes less",
        written / (1 << 20), static_cast<double>(p.bytes_per_s) / (1 << 20),
        std::chrono::ceil<std::chrono::milliseconds>(*p.expected_downtime).count());
  });
}

}  // namespace rhea::migration
