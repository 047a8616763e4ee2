#include "migration/source.h"

#include <numeric>
#include <random>
#include <utility>

namespace rhea::migration {
namespace {

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
      downtime_limit_(options.downtime_limit.count()),
      throttle_(options.throttle) {}

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
    s.hello_.validate_uuid = options.validate_uuid;
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
  throttle(0);
  if (logging_) parts_.machine.stop_dirty_log();
}

void Source::cancel() {
  const bool over = progress_.with([](const Progress& p) { return is_over(p.status); });
  if (over || too_late_to_cancel_ || cancel_->cancelled()) return;
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

void Source::set_throttle(const ThrottleParameters& parameters) {
  throttle_.with([&](ThrottleParameters& p) { p = parameters; });
}

Progress Source::progress() const {
  Progress copy = progress_.with([](const Progress& p) { return p; });
  count_bytes(copy);
  if (!is_over(copy.status)) copy.total = parts_.clock.now() - began_;
  return copy;
}

void Source::count_bytes(Progress& p) const {
  const RamSender* const ram = shared_ram_.load();
  // relaxed: a figure for people
  p.main_bytes = main_bytes_.load(std::memory_order_relaxed);
  if (ram) p.channel_bytes = ram->channel_bytes();
  p.transferred_bytes =
      std::accumulate(p.channel_bytes.begin(), p.channel_bytes.end(), p.main_bytes);
}

uint64_t Source::sent_bytes() const {
  Progress now;
  count_bytes(now);
  return now.transferred_bytes;
}

// --- The thread ---------------------------------------------------------------------------------

void Source::run() { finish(send_all()); }

Result<void> Source::send_all() {
  TRY(set_up());
  TRY(copy_while_running());
  auto sent = stop_and_send_rest();
  Error why(ErrorKind::kIo, "");
  if (sent && channel_->two_way()) return hand_over(next_event(why), why);
  if (sent) sent = channel_->finish();
  if (sent) return leave_one_way();
  why = sent.error();
  return state_ == SourceState::kReleased ? hand_over(SourceEvent::kLost, why) : sent;
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

Result<void> Source::stop_and_send_rest() {
  lap();
  stopped_at_ = lap_began_;  // the phases from here on are the downtime
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    TRY(parts_.machine.stop());
    stopped_ = true;
    throttle(0);
    return ok();
  }));
  const Nanoseconds took = lap();
  progress_.with([&](Progress& p) {
    p.phases.stop = took;
    p.precopy_bytes = sent_bytes();
  });
  TRY(wait_for_continue());
  TRY(channel_->limit_by(nullptr));  // the guest stands still: nobody saves bandwidth now
  // Before the last pass: a queue that is saved shows in RAM what it has completed.
  End end;
  const auto states = TRY(save_devices(end));
  const Nanoseconds saved = lap();
  scan_->begin_pass();
  TRY(send_pass());
  TRY(ram_->finish());
  const Nanoseconds copied = lap();
  if (!channel_->two_way()) {  // who reads its end asks nobody, and wants the images
    TRY(release_locks());
    state_ = SourceState::kReleased;
  }
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
  lap();  // somebody else's time
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

// To a destination that reads: it has more to show then than a stream which ends.
void Source::say_why(const Error& error) {
  if (!channel_ || !link_ || !channel_->two_way()) return;
  if (!channel_->writable(options_.farewell_patience)) return;
  static_cast<void>(channel_->limit_by(nullptr));
  static_cast<void>(link_->send_text(FrameKind::kFail, error.message()));
}

void Source::go_on_or_stay() {
  if (!std::exchange(stopped_, false)) return;
  if (state_ == SourceState::kLocked) {
    parts_.machine.stay();
  } else {
    parts_.machine.resume();
  }
}

void Source::finish(Result<void> result) {
  if (!result && !cancel_->cancelled()) say_why(result.error());
  channel_.reset();  // the peer, or whoever reads the pipe, learns that this is all
  static_cast<void>(main_.call([&]() -> Result<void> {
    bql.assert_held();
    throttle(0);
    if (std::exchange(logging_, false)) parts_.machine.stop_dirty_log();
    Status status = Status::kCompleted;
    // Who cancels takes it that the machine runs on. One that may not is a failure with a reason.
    const bool cancelled = cancel_->cancelled() && state_ != SourceState::kLocked;
    if (!result) status = cancelled ? Status::kCancelled : Status::kFailed;
    progress_.with([&](Progress& p) {
      p.status = status;
      p.total = parts_.clock.now() - began_;
      if (status == Status::kFailed) p.error = result.error();
    });
    // As QEMU's clients know it: failed, RESUME; but RESUME, cancelled.
    if (status == Status::kCancelled) go_on_or_stay();
    parts_.observer.source_status(status);
    go_on_or_stay();
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
