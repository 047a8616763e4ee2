#include "migration/target.h"

#include <algorithm>
#include <array>
#include <utility>

#include "util/log.h"

namespace rhea::migration {
namespace {

// The source numbers its blocks as its manifest lists them.
std::vector<std::shared_ptr<memory::RamBlock>> in_order_of(
    const std::vector<RamInfo>& theirs,
    const std::vector<std::shared_ptr<memory::RamBlock>>& ours) {
  std::vector<std::shared_ptr<memory::RamBlock>> blocks;
  for (const RamInfo& info : theirs)
    for (const auto& block : ours)
      if (block->name() == info.name) blocks.push_back(block);
  return blocks;
}

// Not of a connection that is broken.
bool can_be_told(const Error& error) {
  return error.kind() == ErrorKind::kCorrupt || error.kind() == ErrorKind::kInvalidArgument ||
         error.kind() == ErrorKind::kResource;
}

}  // namespace

Target::Target(const Parts& parts, std::unique_ptr<Channel> channel, std::shared_ptr<Cancel> cancel,
               const TargetOptions& options)
    : parts_(parts),
      options_(options),
      cancel_(std::move(cancel)),
      channel_(std::move(channel)),
      link_(*channel_),
      main_(parts.service) {}

Result<std::unique_ptr<Target>> Target::start(const Parts& parts, std::unique_ptr<Channel> channel,
                                              std::shared_ptr<Cancel> cancel,
                                              const TargetOptions& options) {
  std::unique_ptr<Target> target(new Target(parts, std::move(channel), std::move(cancel), options));
  target->progress_.with([](Progress& p) { p.status = Status::kSetup; });
  const auto prepare = [&t = *target]() -> Result<void> {
    t.refusal_cancel_ = TRY(Cancel::create());
    t.mailbox_ = TRY(ChannelMailbox::create());
    return ok();
  };
  if (auto prepared = prepare(); !prepared) {
    target->main_.close();
    return std::move(prepared).error();
  }
  auto thread = Thread::start("migration", [t = target.get()] { t->run(); });
  if (!thread) {
    target->main_.close();
    return std::move(thread).error();
  }
  target->thread_ = std::move(*thread);
  return target;
}

Target::~Target() {
  bql.assert_held();
  main_.close();
  cancel_->cancel();
  if (refusal_cancel_) refusal_cancel_->cancel();
  if (thread_.joinable()) thread_.join();
}

Progress Target::progress() const {
  return progress_.with([](const Progress& p) { return p; });
}

// --- The thread ---------------------------------------------------------------------------------

void Target::run() {
  auto received = receive_all();
  if (received) return finish(channel_->two_way() ? hand_over() : arrive_one_way());
  // A channel that fails throws the switch: what the others then say is not the reason.
  if (ram_ && ram_->error()) received = *ram_->error();
  // A machine that cannot be taken is refused by name, as long as somebody listens.
  state_ = TargetState::kGone;
  if (channel_->two_way() && can_be_told(received.error())) refuse(received.error());
  finish(received);
}

Result<void> Target::receive_all() {
  TRY(greet());
  TRY(receive_until_end());
  return load();
}

Result<void> Target::greet() {
  const Frame hello = TRY(link_.receive());
  if (hello.kind != FrameKind::kHello)
    return fail(ErrorKind::kCorrupt, "The migration stream begins with '{}'",
                to_string(hello.kind));
  const Hello theirs = TRY(decode_state<Hello>("hello", hello.payload));
  std::vector<std::shared_ptr<memory::RamBlock>> blocks;
  TRY(main_.call([&]() -> Result<void> {
    bql.assert_held();
    ours_ = parts_.machine.manifest();
    blocks = parts_.machine.ram();
    return ok();
  }));
  TRY(check_same_machine(ours_, theirs.machine,
                         theirs.validate_uuid ? CompareUuid::kYes : options_.uuid));
  devices_.resize(ours_.devices.size());
  has_device_.resize(ours_.devices.size());
  ram_ = TRY(RamReceiver::create(link_, in_order_of(theirs.machine.ram, blocks), theirs.channels,
                                 theirs.session, cancel_));
  if (channel_->two_way()) TRY(link_.send_state(FrameKind::kWelcome, Welcome{kStreamVersion}));
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    progress_.with([](Progress& p) { p.status = Status::kActive; });
    parts_.observer.target_status(Status::kActive);
    return ok();
  }));
  return ram_->take_channels(*mailbox_);
}

Result<void> Target::receive_until_end() {
  while (true) {
    const Frame frame = TRY(link_.receive());
    switch (frame.kind) {
      case FrameKind::kPages:
        TRY(ram_->receive(frame.payload));
        break;
      case FrameKind::kSync: {
        const Sync sync = TRY(decode_state<Sync>("sync", frame.payload));
        TRY(ram_->end_pass(sync));
        const PageCounts counts = ram_->counts();
        progress_.with([&](Progress& p) {
          p.passes = sync.pass;
          p.normal_pages = counts.normal;
          p.zero_pages = counts.zero;
        });
        break;
      }
      case FrameKind::kDevice:
        TRY(receive_device(frame));
        break;
      case FrameKind::kEnd: {
        const End end = TRY(decode_state<End>("end", frame.payload));
        TRY(ram_->finish());
        runs_there_ = end.runs;
        return check_complete(end);
      }
      case FrameKind::kFail:
        return fail(ErrorKind::kIo, "The source gives up: {}", frame.text());
      default:
        return fail(ErrorKind::kCorrupt, "The source sends '{}' among pages and devices",
                    to_string(frame.kind));
    }
  }
}

Result<void> Target::receive_device(const Frame& frame) {
  DeviceState device = TRY(decode_state<DeviceState>("device", frame.payload));
  const auto found = std::ranges::find(ours_.devices, device.path, &DeviceInfo::path);
  if (found == ours_.devices.end())
    return fail(ErrorKind::kCorrupt, "The state of '{}', which was not announced", device.path);
  const auto index = static_cast<size_t>(found - ours_.devices.begin());
  if (has_device_[index])
    return fail(ErrorKind::kCorrupt, "The state of '{}' for the second time", device.path);
  has_device_[index] = true;
  devices_[index] = std::move(device);
  return ok();
}

Result<void> Target::check_complete(const End& end) const {
  for (size_t i = 0; i < has_device_.size(); ++i)
    if (!has_device_[i])
      return fail(ErrorKind::kCorrupt, "The migration stream ends without the state of '{}'",
                  ours_.devices[i].path);
  const PageCounts counts = ram_->counts();
  if (end.devices != has_device_.size() || end.pages != counts.normal + counts.zero)
    return fail(
        ErrorKind::kCorrupt,
        "The migration stream says that it had {} pages and {} devices, but it had {} and {}",
        end.pages, end.devices, counts.normal + counts.zero, has_device_.size());
  return ok();
}

Result<void> Target::load() {
  return main_.call([this]() -> Result<void> {
    bql.assert_held();
    auto loaded = parts_.machine.load(devices_);
    devices_.clear();
    return loaded;
  });
}

TakeOver Target::how_to_take_over() {
  const auto run = main_.call([this]() -> Result<bool> {
    bql.assert_held();
    return parts_.machine.run_on_arrival();
  });
  if (!runs_there_ || !run.value_or(false)) return TakeOver::kArrive;
  return options_.late_block_activate ? TakeOver::kLockLate : TakeOver::kLockAndRun;
}

// Out of a file nobody waits for an answer, and nobody else has the machine.
Result<void> Target::arrive_one_way() {
  if (how_to_take_over() == TakeOver::kArrive) {
    state_ = TargetState::kArrived;
    return ok();
  }
  state_ = TargetState::kUnconfirmed;
  TRY(main_.call([this]() -> Result<void> {
    bql.assert_held();
    return parts_.machine.take_locks();
  }));
  TRY(run_machine());
  state_ = TargetState::kRunning;
  return ok();
}

// --- The hand-over ------------------------------------------------------------------------------

Result<void> Target::hand_over() {
  const TakeOver how = how_to_take_over();
  Error why(ErrorKind::kIo, "");
  TargetEvent event = TargetEvent::kLoaded;
  while (true) {
    const TargetStep step = target_step(state_, event, how);
    RHEA_LOG(kMigration, kDebug, "hand-over: {} -> {}", to_string(state_), to_string(step.next));
    state_ = step.next;
    switch (step.action) {
      case TargetAction::kNothing:
        event = next_event(why);
        break;
      case TargetAction::kSendReady:
        event = sent(link_.send(FrameKind::kReady), why);
        break;
      case TargetAction::kSendAck:
        event = sent(link_.send(FrameKind::kAck), why);
        break;
      case TargetAction::kTake:
        event = take_locks(why);
        break;
      case TargetAction::kRun:
        return run_machine();
      case TargetAction::kArrive:
        return ok();
      case TargetAction::kRefuse:
        release_locks();
        refuse(why);
        return why;
      case TargetAction::kEnd:
        release_locks();
        return why;
      case TargetAction::kGiveUp:
        channel_->shutdown();
        release_locks();
        return std::move(why).context(
            "The hand-over was not confirmed: the machine stays paused until you say 'cont', here "
            "or at the source");
    }
  }
}

// What the source still sends is read until it hangs up: if we did with bytes unread, the
// connection would be reset, and our words be lost with it.
void Target::refuse(const Error& why) {
  auto channel = channel_->reopen(refusal_cancel_);  // ours may be what was cancelled
  if (!channel) return;
  FrameLink link(**channel);
  std::array<std::byte, 65536> unread;
  if (!link.send_text(FrameKind::kRefused, why.message())) return;
  ram_.reset();  // the source may be stuck in a channel
  while ((*channel)->read_unless_ended(unread).value_or(false)) {
  }
}

// What the source says next, unless the message before could not be sent.
TargetEvent Target::sent(Result<void> result, Error& why) {
  if (result) return next_event(why);
  why = std::move(result).error();
  return TargetEvent::kLost;
}

TargetEvent Target::next_event(Error& why) {
  auto frame = link_.receive();
  if (!frame) {
    why = std::move(frame).error();
    return TargetEvent::kLost;
  }
  if (frame->kind == FrameKind::kReleased) return TargetEvent::kReleased;
  if (frame->kind == FrameKind::kGo) return TargetEvent::kGo;
  if (frame->kind == FrameKind::kFail) {
    why = fail(ErrorKind::kIo, "The source gives up: {}", frame->text());
    return TargetEvent::kLost;
  }
  why = fail(ErrorKind::kCorrupt, "The source sends '{}' at the end", to_string(frame->kind));
  return TargetEvent::kInvalid;
}

TargetEvent Target::take_locks(Error& why) {
  auto taken = main_.call([this]() -> Result<void> {
    bql.assert_held();
    return parts_.machine.take_locks();
  });
  if (taken) return TargetEvent::kTaken;
  why = std::move(taken).error();
  return TargetEvent::kNotTaken;
}

Result<void> Target::run_machine() {
  return main_.call([this]() -> Result<void> {
    bql.assert_held();
    return parts_.machine.run();
  });
}

void Target::release_locks() {
  const auto released = main_.call([this]() -> Result<void> {
    bql.assert_held();
    return parts_.machine.release_locks();
  });
  if (!released) {
    RHEA_LOG(kMigration, kError, "The images stay locked: {}", released.error().message());
  }
}

void Target::finish(const Result<void>& result) {
  channel_->shutdown();
  static_cast<void>(main_.call([&]() -> Result<void> {
    bql.assert_held();
    const Status status = result ? Status::kCompleted : Status::kFailed;
    std::optional<Error> why;
    if (!result) why = result.error();
    progress_.with([&](Progress& p) {
      p.status = status;
      p.error = why;
    });
    parts_.observer.target_status(status);
    parts_.observer.target_ended(state_, why);
    return ok();
  }));
}

}  // namespace rhea::migration
