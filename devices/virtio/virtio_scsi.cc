#include "devices/virtio/virtio_scsi.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

using block::IoVector;
using Response = VirtioScsiResponse;

/// A trivially copyable object as the bytes that it is.
template <class T>
std::span<std::byte> bytes_of(T& object) {
  return std::as_writable_bytes(std::span(&object, 1));
}
template <class T>
std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span(&object, 1));
}

Response response_of(ScsiOutcome::End end) {
  switch (end) {
    case ScsiOutcome::End::kCompleted:
      return Response::kOk;
    case ScsiOutcome::End::kOverrun:
      return Response::kOverrun;
    case ScsiOutcome::End::kAborted:
      return Response::kAborted;
    case ScsiOutcome::End::kReset:
      return Response::kReset;
    case ScsiOutcome::End::kNoTarget:
      return Response::kBadTarget;
  }
  return Response::kFailure;
}

Response response_of(ScsiBus::TaskResult result) {
  switch (result) {
    case ScsiBus::TaskResult::kComplete:
      return Response::kOk;
    case ScsiBus::TaskResult::kSucceeded:
      return Response::kFunctionSucceeded;
    case ScsiBus::TaskResult::kNoTarget:
      return Response::kBadTarget;
    case ScsiBus::TaskResult::kIncorrectLun:
      return Response::kIncorrectLun;
  }
  return Response::kFailure;
}

/// Whom a task management function means: the whole target, whatever its LUN says, or a unit.
std::optional<ScsiAddress> address_of(const VirtioScsiTaskManagement& what) {
  const bool whole = what.subtype == std::to_underlying(VirtioScsiTask::kNexusReset);
  return decode_lun(whole ? VirtioScsiLun{what.lun[0], what.lun[1]} : what.lun);
}

/// Nothing for what no unit can do.
std::optional<ScsiBus::TaskResult> carry_out(Co& co, ScsiBus& bus, VirtioScsiTask task,
                                             const ScsiAddress& address, uint64_t tag) {
  using Scope = ScsiBus::TaskScope;
  switch (task) {
    case VirtioScsiTask::kAbortTask:
      return bus.co_abort(co, address, Scope::kTask, tag);
    case VirtioScsiTask::kAbortTaskSet:
    case VirtioScsiTask::kClearTaskSet:  // there is one initiator
      return bus.co_abort(co, address, Scope::kTaskSet, tag);
    case VirtioScsiTask::kNexusReset:
      return bus.co_reset_target(co, address);
    case VirtioScsiTask::kUnitReset:
      return bus.co_reset_unit(co, address);
    case VirtioScsiTask::kQueryTask:
      return bus.query(address, Scope::kTask, tag);
    case VirtioScsiTask::kQueryTaskSet:
      return bus.query(address, Scope::kTaskSet, tag);
    case VirtioScsiTask::kClearAca:  // none ever has one
      break;
  }
  return std::nullopt;
}

}  // namespace

/// A command after its header, on its coroutine's stack.
struct VirtioScsi::Request final : ScsiRequest {
  Request(VirtioQueue& q, VirtqElement& e, uint32_t size)
      : queue(q), element(e), sense_size(size) {}
  void park() override { queue.park(element); }
  void unpark() override { queue.unpark(element); }

  VirtioQueue& queue;
  VirtqElement& element;
  const uint32_t sense_size;  // what it was as the request came
};

VirtioScsi::VirtioScsi(std::string id, Host host, VirtioScsiConfig config)
    : SavedVirtio(std::move(id), host),
      config_(std::move(config)),
      bus_(config_.bus_name, {}, host.loop) {
  AioContext& first = *config_.queues.front();
  add_queue(first, config_.queue_size);
  add_queue(first, config_.queue_size);
  for (AioContext* context : config_.queues) add_queue(*context, config_.queue_size);
  bus_.set_listener(this);
}

VirtioScsi::~VirtioScsi() = default;

Result<void> VirtioScsi::realize() {
  TRY(VirtioDevice::realize());
  events_bh_ = std::make_unique<Bh>(loop().service(), [this] {
    bql.assert_held();
    serve_soon(queue(kScsiEventQueue));
  });
  return ok();
}

void VirtioScsi::unrealize() {
  RHEA_CHECK(bus_.units().empty(), "{} goes while it has units", id());
  // Before the last round of the contexts: what it posted has run behind that.
  events_bh_.reset();
  VirtioDevice::unrealize();
  bus_.close();
}

void VirtioScsi::machine_stopped() {
  pause();
  const bool heard =
      loop().waiter().until(loop().gs(), [this] { return !pausing(); }, kHoldPatience);
  if (!heard) RHEA_LOG(kDevices, kWarn, "{}: an iothread does not hear of the stop", id());
}

uint64_t VirtioScsi::device_features() const {
  uint64_t features = std::to_underlying(VirtioScsiFeature::kHotplug) |
                      std::to_underlying(VirtioScsiFeature::kChange);
  if (config_.indirect_desc) features |= bit(VirtioFeature::kIndirectDesc);
  if (config_.event_idx) features |= bit(VirtioFeature::kEventIdx);
  return features;
}

void VirtioScsi::activated(uint64_t features) { events_.start(features); }

void VirtioScsi::was_reset() {
  events_.stop();
  // [virtio-1.2 5.6.4.2]
  sense_size_.store(kDefaultSenseSize, std::memory_order_relaxed);
  cdb_size_.store(kDefaultCdbSize, std::memory_order_relaxed);
  bus_.reset();
}

void VirtioScsi::read_config(std::span<std::byte> out) {
  VirtioScsiConfigSpace config{};
  config.num_queues = queues() - kScsiRequestQueues;
  config.seg_max = config_.queue_size - 2U;  // a request and a response besides
  config.max_sectors = config_.max_sectors;
  config.cmd_per_lun = config_.cmd_per_lun;
  config.event_info_size = sizeof(VirtioScsiEvent);
  config.sense_size = sense_size_.load(std::memory_order_relaxed);
  config.cdb_size = cdb_size_.load(std::memory_order_relaxed);
  config.max_channel = bus_.limits().max_channel;
  config.max_target = bus_.limits().max_target;
  config.max_lun = bus_.limits().max_lun;
  std::memcpy(out.data(), &config, std::min(out.size(), sizeof config));
}

void VirtioScsi::write_config(size_t offset, std::span<const std::byte> data) {
  const bool is_sense = offset == offsetof(VirtioScsiConfigSpace, sense_size);
  const bool is_cdb = offset == offsetof(VirtioScsiConfigSpace, cdb_size);
  le32 value;
  if (!(is_sense || is_cdb) || data.size() != sizeof value) {
    return errors().report(GuestError::kReadOnly, offset, data.size());
  }
  std::memcpy(&value, data.data(), sizeof value);
  if (value > (is_sense ? kMaxSenseSize : kMaxCdbSize)) {
    return errors().report(GuestError::kBadValue, offset, value);
  }
  (is_sense ? sense_size_ : cdb_size_).store(value, std::memory_order_relaxed);
}

VirtioDevice::Served VirtioScsi::serve(VirtioQueue& queue) {
  if (queue.index() == kScsiEventQueue) return serve_events(queue);
  const auto handle = queue.index() == kScsiControlQueue ? &VirtioScsi::handle_control
                                                         : &VirtioScsi::handle_command;
  while (queue.rings()->has_available()) {
    const auto started = rhea::start_here(
        queue.context(), [this, handle, &queue](Co& co) { (this->*handle)(co, queue); });
    if (!started) return Served::kStarved;  // no more coroutines: the rest waits in the ring
  }
  return Served::kAll;
}

/// Nobody waits any more for what was taken from this queue, and nothing more is.
void VirtioScsi::stopping(VirtioQueue& queue) {
  bus_.cancel(ScsiOutcome::End::kReset, [&queue](const ScsiRequest& request) {
    return &static_cast<const Request&>(request).queue == &queue;
  });
}

void VirtioScsi::handle_command(Co& co, VirtioQueue& queue) {
  VirtqElement element;
  if (!queue.pop(element)) return;
  const uint32_t cdb_size = cdb_size_.load(std::memory_order_relaxed);
  const uint32_t sense_size = sense_size_.load(std::memory_order_relaxed);
  VirtioScsiRequestHead head;
  if (element.readable_bytes() < sizeof head + cdb_size) {
    return queue.reject(element, "a command without a header");
  }
  if (element.writable_bytes() < sizeof(VirtioScsiResponseHead) + sense_size) {
    return queue.reject(element, "a command without room for its response");
  }
  Request request(queue, element, sense_size);
  element.copy_out(0, bytes_of(head));
  element.copy_out(sizeof head, std::as_writable_bytes(std::span(request.cdb))
                                    .first(std::min<size_t>(cdb_size, request.cdb.size())));
  element.skip_readable(sizeof head + cdb_size);
  element.skip_writable(sizeof(VirtioScsiResponseHead) + sense_size);
  request.tag = head.id;
  request.data_out = {element.readable(), element.readable_bytes()};
  request.data_in = {element.writable(), element.writable_bytes()};
  // In both directions at once it would take a feature that is not offered. [virtio-1.2 5.6.6.1.1]
  if (request.data_out.size != 0 && request.data_in.size != 0) {
    return respond(request, Response::kFailure, {});
  }
  const ScsiOutcome outcome = perform(co, head.lun, request);
  respond(request, response_of(outcome.end), outcome);
}

ScsiOutcome VirtioScsi::perform(Co& co, const VirtioScsiLun& lun, ScsiRequest& request) {
  const auto address = decode_lun(lun);
  RHEA_TRACE(kDevices, "virtio_scsi id={} target={} lun={:#x} opcode={:#x} tag={:#x}", id(), lun[1],
             lun[2] << 8 | lun[3], request.cdb[0], request.tag);
  if (!address) return {.end = ScsiOutcome::End::kNoTarget};
  return bus_.execute(co, *address, request);
}

void VirtioScsi::respond(Request& request, Response response, const ScsiOutcome& outcome) {
  std::array<std::byte, sizeof(VirtioScsiResponseHead) + kMaxSenseSize> answer{};
  const auto used = std::span(answer).first(sizeof(VirtioScsiResponseHead) + request.sense_size);
  VirtioScsiResponseHead head{};
  head.residual =
      static_cast<uint32_t>(request.data_out.size + request.data_in.size - outcome.transferred);
  head.status = std::to_underlying(outcome.status);
  head.response = std::to_underlying(response);
  if (response == Response::kOk && outcome.status == ScsiStatus::kCheckCondition) {
    head.sense_length =
        static_cast<uint32_t>(write_fixed_sense(outcome.sense, used.subspan(sizeof head)));
  }
  std::ranges::copy(bytes_of(std::as_const(head)), answer.begin());
  request.element.write_skipped(used);
  const uint64_t data = request.data_in.size != 0 ? outcome.transferred : 0;
  request.queue.complete(request.element, static_cast<uint32_t>(used.size() + data));
}

void VirtioScsi::handle_control(Co& co, VirtioQueue& queue) {
  VirtqElement element;
  if (!queue.pop(element)) return;
  le32 type;
  if (!element.copy_out(0, bytes_of(type))) {
    return queue.reject(element, "a control request without a type");
  }
  switch (static_cast<VirtioScsiControl>(type.value())) {
    case VirtioScsiControl::kTaskManagement:
      return manage_tasks(co, queue, element);
    case VirtioScsiControl::kNotificationQuery:
    case VirtioScsiControl::kNotificationSubscribe:
      return answer_notification(queue, element);
  }
  refuse_control(queue, element, type);
}

/// The response is the last byte, whatever lies before it.
void VirtioScsi::refuse_control(VirtioQueue& queue, VirtqElement& element, uint32_t type) {
  errors().report(GuestError::kBadCommand, kScsiControlQueue, type);
  const uint64_t room = element.writable_bytes();
  if (room == 0) return queue.reject(element, "a control request without room for its response");
  *element.take_last_writable() = static_cast<std::byte>(Response::kFailure);
  queue.complete(element, room == 1 ? 1 : 0);
}

void VirtioScsi::manage_tasks(Co& co, VirtioQueue& queue, VirtqElement& element) {
  VirtioScsiTaskManagement what;
  if (!element.copy_out(0, bytes_of(what)) || element.writable_bytes() == 0) {
    return queue.reject(element, "a task management function that is too short");
  }
  const std::byte response{std::to_underlying(manage(co, what))};
  element.copy_in(0, std::span(&response, 1));
  queue.complete(element, 1);
}

Response VirtioScsi::manage(Co& co, const VirtioScsiTaskManagement& what) {
  RHEA_TRACE(kDevices, "virtio_scsi_task id={} target={} subtype={} tag={:#x}", id(), what.lun[1],
             what.subtype.value(), what.id.value());
  const auto address = address_of(what);
  if (!address) return Response::kBadTarget;
  const auto subtype = static_cast<VirtioScsiTask>(what.subtype.value());
  const auto result = carry_out(co, bus_, subtype, *address, what.id);
  if (!result) return Response::kFunctionRejected;
  show_completed(co);
  return response_of(*result);
}

/// What was cancelled has been given back: its queue's coroutine ran on from the wake-up to the
/// ring without a wait. The driver is to see that before it hears of the function's end.
void VirtioScsi::show_completed(Co& co) {
  AioContext& home = queue(kScsiControlQueue).context();
  for (unsigned i = kScsiRequestQueues; i < queues(); ++i) {
    co.move_to(queue(i).context());
    queue(i).show();
  }
  co.move_to(home);
}

void VirtioScsi::answer_notification(VirtioQueue& queue, VirtqElement& element) {
  VirtioScsiNotification what;
  VirtioScsiNotificationAnswer answer{};
  if (!element.copy_out(0, bytes_of(what)) || element.writable_bytes() < sizeof answer) {
    return queue.reject(element, "a notification request that is too short");
  }
  // No unit has any: the answer is none of what was asked for.
  const auto address = decode_lun(what.lun);
  const Response response = address ? response_of(bus_.find_unit(*address)) : Response::kBadTarget;
  answer.response = std::to_underlying(response);
  element.copy_in(0, bytes_of(std::as_const(answer)));
  queue.complete(element, sizeof answer);
}

VirtioDevice::Served VirtioScsi::serve_events(VirtioQueue& queue) {
  while (events_.waiting()) {
    VirtqElement element;
    if (!queue.pop(element)) return Served::kAll;  // the doorbell tells of the next buffer
    tell(queue, element);
  }
  return queue.rings()->has_available() ? Served::kStarved : Served::kAll;
}

void VirtioScsi::tell(VirtioQueue& queue, VirtqElement& element) {
  const uint64_t room = element.writable_bytes();
  if (room < sizeof(VirtioScsiEvent)) {
    // The event waits for a better one. [virtio-1.2 5.6.6.3]
    errors().report(GuestError::kBadValue, kScsiEventQueue, room);
    const le32 none{std::to_underlying(VirtioScsiEventKind::kNone)};
    const bool told = element.copy_in(0, bytes_of(none));
    return queue.complete(element, told ? sizeof none : 0);
  }
  // Only this context takes events, and a driver's reset that lets them go stops the queue first.
  const std::optional<VirtioScsiEvent> event = events_.take();
  RHEA_CHECK(event.has_value(), "an event of {} has gone", id());
  element.copy_in(0, bytes_of(*event));
  queue.complete(element, sizeof *event);
}

VirtioScsiState VirtioScsi::own_state() {
  return {.sense_size = sense_size_.load(std::memory_order_relaxed),
          .cdb_size = cdb_size_.load(std::memory_order_relaxed),
          .events = events_.saved(),
          .bus = bus_.state()};
}

Result<void> VirtioScsi::check_own(const VirtioScsiState& own) const {
  TRY(check_at_most("sense_size", own.sense_size, kMaxSenseSize));
  TRY(check_at_most("cdb_size", own.cdb_size, kMaxCdbSize));
  TRY(VirtioScsiEvents::check(own.events));
  return bus_.check_state(own.bus);
}

void VirtioScsi::set_own(const VirtioScsiState& own) {
  sense_size_.store(own.sense_size, std::memory_order_relaxed);
  cdb_size_.store(own.cdb_size, std::memory_order_relaxed);
  events_.load(own.events);
  bus_.set_state(own.bus);
}

void VirtioScsi::unit_added(const ScsiAddress& address) {
  if (events_.add_reset(address, VirtioScsiResetReason::kRescan)) events_bh_->schedule();
}

void VirtioScsi::unit_removed(const ScsiAddress& address) {
  if (events_.add_reset(address, VirtioScsiResetReason::kRemoved)) events_bh_->schedule();
}

void VirtioScsi::unit_changed(const ScsiAddress& address, const ScsiSense& sense) {
  if (events_.add_change(address, sense)) events_bh_->schedule();
}

}  // namespace rhea::devices
