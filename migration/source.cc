#include "migration/source.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "util/log.h"
#include "util/sync_point.h"

namespace rhea::migration {
namespace {

constexpr double kPage = memory::kDirtyPageBytes;

double seconds(Nanoseconds t) { return std::chrono::duration<double>(t).count(); }

uint64_t total_bytes(const std::vector<std::shared_ptr<memory::RamBlock>>& blocks) {
  uint64_t bytes = 0;
  for (const auto& block : blocks) bytes += block->size_bytes();
  return bytes;
}

}  // namespace

Source::Source(const Parts& parts, const Address& address, const SourceOptions& options)
    : parts_(parts),
      address_(address),
      options_(options),
      main_(parts.service),
      downtime_limit_(options.downtime_limit.count()) {}

Result<std::unique_ptr<Source>> Source::start(const Parts& parts, const Address& address,
                                              const SourceOptions& options, TakeFd take_fd) {
  std::unique_ptr<Source> source(new Source(parts, address, options));
  Source& s = *source;
  const auto begin = [&]() -> Result<void> {
    bql.assert_held();
    s.take_fd_ = std::move(take_fd);
    s.cancel_ = TRY(Cancel::create());
    // Whoever names a descriptor that is not there hears of it at once.
    if (address.kind == Address::Kind::kFd)
      s.channel_ = TRY(connect_to(address, s.cancel_, s.take_fd_));
    s.hello_.machine = parts.machine.manifest();
    s.hello_.channels = options.ram.channels;
    s.hello_.session = std::random_device{}();
    const auto blocks = parts.machine.ram();
    s.scan_ = std::make_unique<RamScan>(blocks);
    s.progress_.with([&](Progress& p) { p.ram_bytes = total_bytes(blocks); });
    s.began_ = s.lap_began_ = parts.clock.now();
    return ok();
  };
  if (auto begun = begin(); !begun) {
    s.main_.close();
    return std::move(begun).error();
  }
  s.progress_.with([](Progress& p) { p.status = Status::kSetup; });
  auto thread = Thread::start("migration", [&s] { s.run(); });
  if (!thread) {
    s.main_.close();
    return std::move(thread).error();
  }
  s.thread_ = std::move(*thread);
  parts.observer.source_status(Status::kSetup);
  return source;
}

Source::~Source() {
  bql.assert_held();
  main_.close();
  if (cancel_) cancel_->cancel();
  if (RamSender* const ram = shared_ram_.load()) ram->cancel();
  go_on_.set();
  if (thread_.joinable()) thread_.join();
}

void Source::cancel() {
  const bool over = progress_.with([](const Progress& p) { return is_over(p.status); });
  if (over || cancel_->cancelled()) return;
  progress_.with([](Progress& p) { p.status = Status::kCancelling; });
  parts_.observer.source_status(Status::kCancelling);
  cancel_->cancel();
  if (RamSender* const ram = shared_ram_.load()) ram->cancel();
  go_on_.set();
}

Result<void> Source::go_on() {
  const bool waits =
      progress_.with([](const Progress& p) { return p.status == Status::kPreSwitchover; });
  if (!waits) return fail(ErrorKind::kBusy, "Migration not in expected state: pre-switchover");
  go_on_.set();
  return ok();
}

Progress Source::progress() const {
  Progress copy = progress_.with([](const Progress& p) { return p; });
  copy.transferred_bytes = sent_bytes();
  if (!is_over(copy.status)) copy.total = parts_.clock.now() - began_;
  return copy;
}

uint64_t Source::sent_bytes() const {
  const RamSender* const ram = shared_ram_.load();
  // relaxed: a figure for people
  return main_bytes_.load(std::memory_order_relaxed) + (ram ? ram->channel_bytes() : 0);
}

// --- The thread ---------------------------------------------------------------------------------

void Source::run() { finish(send_all()); }

Result<void> Source::send_all() {
  TRY(set_up());
  TRY(copy_while_running());
  TRY(stop_and_send_rest());
  if (channel_->two_way()) return hand_over();
  TRY(channel_->finish());
  return main_.call([this]() -> Result<void> {
    bql.assert_held();
    parts_.machine.leave();
    stopped_ = false;
    return ok();
  });
}

Result<void> Source::set_up() {
  TRY(connect());
  TRY(greet());
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    TRY(parts_.machine.start_dirty_log());
    logging_ = true;
    return ok();
  }));
  TRY(open_channels());
  const Nanoseconds took = lap();
  progress_.with([took](Progress& p) { p.phases.setup = took; });
  return check_not_cancelled();
}

Result<void> Source::connect() {
  if (!channel_) channel_ = TRY(connect_to(address_, cancel_, take_fd_));
  take_fd_ = nullptr;
  channel_->count_into(&main_bytes_);
  TRY(channel_->limit_by(parts_.bandwidth));
  link_ = std::make_unique<FrameLink>(*channel_);
  return ok();
}

// What the machine is; on a connection that can answer nothing stops before the other side agrees.
Result<void> Source::greet() {
  TRY(link_->send_state(FrameKind::kHello, hello_));
  if (!channel_->two_way()) return ok();
  const Frame answer = TRY(link_->receive());
  if (answer.kind == FrameKind::kRefused)
    return fail(ErrorKind::kInvalidArgument, "The destination refuses the machine: {}",
                answer.text());
  if (answer.kind != FrameKind::kWelcome)
    return fail(ErrorKind::kCorrupt,
                "The destination answers '{}' to the description of the machine",
                to_string(answer.kind));
  TRY(decode_state<Welcome>("welcome", answer.payload));
  return ok();
}

Result<void> Source::open_channels() {
  if (options_.ram.channels != 0 && !address_.takes_connections())
    return fail(ErrorKind::kInvalidArgument, "'{}' is one connection, and cannot be {}",
                address_.text(), options_.ram.channels + 1);
  ram_ = TRY(RamSender::create(*link_, scan_->blocks(), options_.ram, hello_.session,
                               parts_.bandwidth, [this](unsigned, std::shared_ptr<Cancel> cancel) {
                                 return connect_to(address_, std::move(cancel), {});
                               }));
  shared_ram_.store(ram_.get());
  return check_not_cancelled();  // seq_cst on both sides: main has seen it, or we see the cancel
}

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

Result<void> Source::stop_and_send_rest() {
  stopped_at_ = parts_.clock.now();
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    TRY(parts_.machine.stop());
    stopped_ = true;
    return ok();
  }));
  const Nanoseconds took = lap();
  progress_.with([took](Progress& p) { p.phases.stop = took; });
  TRY(wait_for_continue());
  TRY(channel_->limit_by(nullptr));  // the guest stands still: nobody saves bandwidth now
  lap();
  // Before the last pass: a queue that is saved shows in RAM what it has completed.
  End end;
  const auto states = TRY(save_devices(end));
  const Nanoseconds saved = lap();
  scan_->begin_pass();
  TRY(send_pass());
  TRY(ram_->finish());
  const Nanoseconds copied = lap();
  TRY(send_devices(states, end));
  const Nanoseconds sent = lap();
  progress_.with([&](Progress& p) {
    p.phases.last_copy = copied;
    p.phases.device_state = saved + sent;
  });
  return check_not_cancelled();
}

Result<void> Source::wait_for_continue() {
  if (!options_.pause_before_switchover) return ok();
  set_status(Status::kPreSwitchover);
  go_on_.wait();
  set_status(Status::kDevice);
  return check_not_cancelled();
}

Result<std::vector<DeviceState>> Source::save_devices(End& end) {
  return main_.call([this, &end]() -> Result<std::vector<DeviceState>> {
    bql.assert_held();
    end.runs = parts_.machine.ran();
    return parts_.machine.save();
  });
}

Result<void> Source::send_devices(const std::vector<DeviceState>& states, End end) {
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    parts_.machine.stop_dirty_log();
    logging_ = false;
    return ok();
  }));
  for (const DeviceState& device : states) TRY(link_->send_state(FrameKind::kDevice, device));
  end.devices = static_cast<uint32_t>(states.size());
  end.pages = progress_.with([](const Progress& p) { return p.normal_pages + p.zero_pages; });
  return link_->send_state(FrameKind::kEnd, end);
}

// --- The hand-over ------------------------------------------------------------------------------

Result<void> Source::hand_over() {
  state_ = SourceState::kSent;
  Error why(ErrorKind::kIo, "");
  SourceEvent event = next_event(why);
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
        channel_.reset();
        resume();
        return why;
      case SourceAction::kStayPaused:
        return why;
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
  if (frame->kind == FrameKind::kAck) return SourceEvent::kAck;
  if (frame->kind == FrameKind::kRefused) {
    why = fail(ErrorKind::kInvalidArgument, "The destination gives up: {}", frame->text());
    return SourceEvent::kRefused;
  }
  return SourceEvent::kLost;
}

Result<void> Source::release_locks() {
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    parts_.machine.release_locks();
    return ok();
  }));
  return link_->send(FrameKind::kReleased);
}

// From here on the machine is the destination's, whether it hears of it or not.
Result<void> Source::commit() {
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    parts_.machine.leave();
    stopped_ = false;
    return ok();
  }));
  auto sent = link_->send(FrameKind::kGo);
  channel_.reset();
  if (!sent)
    return std::move(sent).error().context(
        "The destination has taken the machine over, but may not know it: say 'cont' there, or "
        "here if it is lost");
  const Nanoseconds now = parts_.clock.now(), took = lap();
  progress_.with([&](Progress& p) {
    p.phases.resume = took;
    p.downtime = now - stopped_at_;
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

void Source::resume() {
  static_cast<void>(main_.call([this]() -> Result<void> {
    bql.assert_held();
    stopped_ = false;
    parts_.machine.resume();
    return ok();
  }));
}

void Source::finish(Result<void> result) {
  channel_.reset();  // the peer, or whoever reads the pipe, learns that this is all
  static_cast<void>(main_.call([&]() -> Result<void> {
    bql.assert_held();
    if (logging_) parts_.machine.stop_dirty_log();
    // Before the hand-over a failure costs nothing but time.
    if (stopped_ && state_ == SourceState::kSent) parts_.machine.resume();
    Status status = Status::kCompleted;
    if (!result) status = cancel_->cancelled() ? Status::kCancelled : Status::kFailed;
    progress_.with([&](Progress& p) {
      p.status = status;
      p.total = parts_.clock.now() - began_;
      if (status == Status::kFailed) p.error = result.error();
    });
    parts_.observer.source_status(status);
    return ok();
  }));
}

Result<void> Source::check_not_cancelled() const {
  if (!cancel_->cancelled()) return ok();
  return fail(ErrorKind::kCancelled, "The migration was cancelled");
}

void Source::set_status(Status status) {
  static_cast<void>(main_.call([this, status]() -> Result<void> {
    bql.assert_held();
    const bool changed = progress_.with([status](Progress& p) {
      if (p.status == Status::kCancelling) return false;
      p.status = status;
      return true;
    });
    if (changed) parts_.observer.source_status(status);
    return ok();
  }));
}

/// How long it is since the last call.
Nanoseconds Source::lap() {
  const Nanoseconds now = parts_.clock.now();
  return now - std::exchange(lap_began_, now);
}

}  // namespace rhea::migration
