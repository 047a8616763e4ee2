#include "devices/virtio/virtio_device.h"

#include <algorithm>
#include <array>
#include <utility>

#include "devices/internal/virtio_status.h"
#include "util/check.h"
#include "util/log.h"

namespace rhea::devices {
namespace {

using namespace internal;
using enum VirtioStatus;

struct Step {
  uint8_t from, to;
};
/// Every store to the status that gets the driver further. [virtio-1.2 2.1, 3.1.1]
constexpr std::array kSteps{Step{0, kFound}, Step{0, kDriven}, Step{kFound, kDriven},
                            Step{kDriven, kNegotiated}, Step{kNegotiated, kLive}};

bool is_step(uint8_t from, uint8_t to) {
  return from == to || std::ranges::any_of(kSteps, [&](const Step& step) {
           return step.from == from && step.to == to;
         });
}

}  // namespace

VirtioDevice::~VirtioDevice() = default;

void VirtioDevice::add_queue(AioContext& context, uint16_t size) {
  auto queue =
      std::unique_ptr<VirtioQueue>(new VirtioQueue(*this, static_cast<unsigned>(queues_.size())));
  queue->context_ = &context;
  queue->max_size_ = size;
  queues_.push_back(std::move(queue));
}

Result<void> VirtioDevice::realize() {
  for (const auto& queue : queues_) queue->kick_ = TRY(make_eventfd());
  service_bh_ = std::make_unique<Bh>(host_.loop.service(), [this] {
    bql.assert_held();
    serve_main();
  });
  for (const auto& queue : queues_) forget_queue(*queue);
  realized_ = true;
  return ok();
}

void VirtioDevice::unrealize() {
  begin_reset();
  MainWait& waiter = host_.loop.waiter();
  waiter.until(host_.loop.gs(), [this] { return !stops_pending() && !busy(); });
  // The contexts may still be on their way out of what told us so: once round each of them.
  on_contexts([](VirtioQueue&) {});
  complete_resets();
  service_bh_.reset();
  realized_ = false;
}

uint64_t VirtioDevice::offered_features() const {
  return device_features() | bit(VirtioFeature::kVersion1) | bit(VirtioFeature::kRingReset);
}

void VirtioDevice::set_driver_features(uint64_t features) {
  // They are settled once FEATURES_OK is set. [virtio-1.2 2.2]
  if (resetting_ || (status_ & bits(kFeaturesOk)) != 0) {
    return errors_.report(GuestError::kReadOnly, 0, features);
  }
  driver_features_ = features;
}

uint8_t VirtioDevice::status() const { return status_; }

bool VirtioDevice::accept_features() {
  const bool known = (driver_features_ & ~offered_features()) == 0;
  return known && has(driver_features_, VirtioFeature::kVersion1);
}

void VirtioDevice::set_status(uint8_t status) {
  if (resetting_) return;  // until the driver has read 0 it has nothing to say (G26)
  if (status == 0) return begin_reset();
  const uint8_t from = status_ & kProgress;
  const uint8_t to = status & kProgress;
  if (!is_step(from, to)) return errors_.report(GuestError::kBadValue, from, status);
  if (to == kNegotiated && from != kNegotiated && !accept_features()) {
    // The driver reads the status again and sees that it was refused. [virtio-1.2 3.1.1]
    return errors_.report(GuestError::kBadValue, from, status);
  }
  status_ = static_cast<uint8_t>(status_ | to | (status & bits(kFailed)));
  if (to != kLive || from == kLive) return;
  RHEA_TRACE(kDevices, "virtio_live id={} features={:#x}", id_, driver_features_);
  activated(driver_features_);
  for (const auto& queue : queues_) {
    if (queue->enabled_) start_queue(*queue);
  }
}

uint16_t VirtioDevice::queue_size(unsigned queue) const { return queues_[queue]->config_.size; }
bool VirtioDevice::queue_enabled(unsigned queue) const { return queues_[queue]->enabled_; }
bool VirtioDevice::queue_resetting(unsigned queue) const { return queues_[queue]->resetting_; }
const VirtQueueConfig& VirtioDevice::queue_config(unsigned queue) const {
  return queues_[queue]->config_;
}

/// The queue, if the driver may change it now; else the mistake is reported.
VirtioQueue* VirtioDevice::configurable(unsigned index, uint64_t value) {
  VirtioQueue& queue = *queues_[index];
  const bool now =
      !resetting_ && !queue.resetting_ && !queue.enabled_ && (status_ & bits(kFeaturesOk)) != 0;
  if (now) return &queue;
  errors_.report(GuestError::kBadValue, index, value);
  return nullptr;
}

void VirtioDevice::set_queue_size(unsigned index, uint16_t size) {
  VirtioQueue* queue = configurable(index, size);
  if (queue == nullptr) return;
  // The driver may only make it smaller. [virtio-1.2 4.1.5.1.3]
  if (!std::has_single_bit(size) || size > queue->max_size_) {
    return errors_.report(GuestError::kBadValue, index, size);
  }
  queue->config_.size = size;
}

void VirtioDevice::set_queue_address(unsigned index, Ring ring, uint64_t address) {
  VirtioQueue* queue = configurable(index, address);
  if (queue == nullptr) return;
  switch (ring) {
    case Ring::kDescriptors:
      queue->config_.descriptors = address;
      break;
    case Ring::kAvailable:
      queue->config_.available = address;
      break;
    case Ring::kUsed:
      queue->config_.used = address;
      break;
  }
}

void VirtioDevice::enable_queue(unsigned index) {
  VirtioQueue* queue = configurable(index, 1);
  if (queue == nullptr) return;
  queue->enabled_ = true;
  if ((status_ & bits(kDriverOk)) != 0) start_queue(*queue);
}

void VirtioDevice::reset_queue(unsigned index) {
  VirtioQueue& queue = *queues_[index];
  if (resetting_ || queue.resetting_) return;
  if (!queue.enabled_ || !has(driver_features_, VirtioFeature::kRingReset)) {
    return errors_.report(GuestError::kBadValue, index, 1);
  }
  queue.resetting_ = true;
  stop_queue(queue);
  complete_resets();
}

void VirtioDevice::start_queue(VirtioQueue& queue) {
  queue.running_ = true;
  post_start(queue, {queue.config_, ring_features(driver_features_), paused_ != 0});
}

void VirtioDevice::post_start(VirtioQueue& queue, Start start) {
  queue.context_->post([this, &queue, start = std::move(start)] { start_here(queue, start); });
}

void VirtioDevice::stop_queue(VirtioQueue& queue) {
  if (!std::exchange(queue.running_, false)) return;
  stops_.fetch_add(1, std::memory_order_relaxed);
  queue.context_->post([this, &queue] { stop_here(queue); });
}

void VirtioDevice::begin_reset() {
  if (resetting_) return;
  resetting_ = true;
  for (const auto& queue : queues_) stop_queue(*queue);
  complete_resets();
}

void VirtioDevice::forget_queue(VirtioQueue& queue) {
  queue.config_ = {};
  queue.config_.size = queue.max_size_;
  queue.enabled_ = false;
  queue.resetting_ = false;
}

/// What was latched takes effect once every context has stopped its part.
void VirtioDevice::complete_resets() {
  if (stops_pending()) return;
  bool completed = resetting_;
  for (const auto& queue : queues_) {
    completed |= queue->resetting_;
    if (resetting_ || queue->resetting_) forget_queue(*queue);
  }
  if (std::exchange(resetting_, false)) {
    status_ = 0;
    driver_features_ = 0;
    broken_.store(nullptr, std::memory_order_relaxed);
    was_reset();
  }
  if (completed && transport_ != nullptr) transport_->reset_completed();
}

void VirtioDevice::reset_now() {
  begin_reset();
  host_.loop.waiter().until(host_.loop.gs(), [this] { return !stops_pending(); }, kResetPatience);
  complete_resets();
}

void VirtioDevice::serve_main() {
  complete_resets();
  if (look_) look_();
  const char* reason = broken_.exchange(nullptr, std::memory_order_acquire);
  if (reason == nullptr || resetting_ || status_ == 0) return;
  RHEA_LOG(kDevices, kDebug, "{}: the driver broke it and has to reset it: {}", id_, reason);
  errors_.report(GuestError::kBadCommand, 0, status_);
  status_ |= bits(kNeedsReset);
  // [virtio-1.2 2.1.2]
  if ((status_ & bits(kDriverOk)) != 0 && transport_ != nullptr) transport_->config_interrupt();
}

void VirtioDevice::set_broken(const char* reason) {
  broken_.store(reason, std::memory_order_release);
  service_bh_->schedule();
}

void VirtioDevice::config_changed() {
  ++generation_;
  if ((status_ & bits(kDriverOk)) != 0 && transport_ != nullptr) transport_->config_interrupt();
}

void VirtioDevice::serve_soon(VirtioQueue& queue) {
  queue.context_->post([this, &queue] {
    // Of one that is broken the driver has been told.
    if (queue.rings_ != nullptr && !queue.rings_->broken()) run(queue);
  });
}

void VirtioDevice::post_pause(bool paused) {
  for (const auto& queue : queues_) {
    pauses_.fetch_add(1, std::memory_order_relaxed);
    queue->context_->post([this, q = queue.get(), paused] { pause_here(*q, paused); });
  }
}

void VirtioDevice::pause() {
  if (paused_++ == 0) post_pause(true);
}

void VirtioDevice::resume() {
  RHEA_CHECK(paused_ > 0, "{} is resumed more often than paused", id_);
  if (--paused_ == 0) post_pause(false);
}

bool VirtioDevice::busy() const noexcept {
  // acquire: pairs with the releases on the queues' contexts
  if (pausing()) return true;
  return std::ranges::any_of(queues_, [](const auto& queue) {
    return queue->requests_.load(std::memory_order_acquire) != 0;
  });
}

/// Calls `body` for each queue on its context, and waits for that.
void VirtioDevice::on_contexts(const std::function<void(VirtioQueue&)>& body) {
  MainWait& waiter = host_.loop.waiter();
  for (const auto& queue : queues_) {
    pauses_.fetch_add(1, std::memory_order_relaxed);
    queue->context_->post([this, &waiter, &body, q = queue.get()] {
      body(*q);
      // release: pairs with the acquire in pausing()
      pauses_.fetch_sub(1, std::memory_order_release);
      waiter.kick();
    });
  }
  waiter.until(host_.loop.gs(), [this] { return !pausing(); });
}

Result<void> VirtioDevice::hold() {
  pause();
  Result<void> quiet = wait_until_quiet();
  if (!quiet) resume();
  return quiet;
}

Result<void> VirtioDevice::wait_until_quiet() {
  const auto quiet = [this] { return !stops_pending() && !busy(); };
  if (!host_.loop.waiter().until(host_.loop.gs(), quiet, kHoldPatience)) {
    return fail(ErrorKind::kTimeout, "Requests of '{}' did not end within {} s", id_,
                std::chrono::duration_cast<std::chrono::seconds>(kHoldPatience).count());
  }
  std::atomic<bool> parked{false};  // relaxed: on_contexts() orders it
  on_contexts([&parked](VirtioQueue& queue) {
    if (queue.taken_ != 0) parked.store(true, std::memory_order_relaxed);
  });
  if (!parked.load(std::memory_order_relaxed)) return ok();
  return fail(ErrorKind::kBusy, "Requests of '{}' wait for the machine to go on", id_);
}

void VirtioDevice::post_reports(bool reports) {
  for (const auto& queue : queues_) {
    queue->context_->post([this, q = queue.get(), reports] {
      q->reports_ = reports;
      if (reports) service_bh_->schedule();
    });
  }
}

void VirtioDevice::prepare_to_leave(std::function<void()> look) {
  RHEA_CHECK(!look_, "{} prepares to leave twice", id_);
  look_ = std::move(look);
  pause();
  post_reports(true);  // behind the pause: the first report finds that acknowledged
}

bool VirtioDevice::idle() const { return !stops_pending() && !busy(); }

Result<void> VirtioDevice::leave() {
  begin_reset();
  const auto quiet = [this] { return !stops_pending() && !busy(); };
  if (!host_.loop.waiter().until(host_.loop.gs(), quiet, kLeavePatience)) {
    return fail(ErrorKind::kTimeout, "Requests of '{}' did not end within {} s", id_,
                std::chrono::duration_cast<std::chrono::seconds>(kLeavePatience).count());
  }
  on_contexts([](VirtioQueue&) {});  // as in unrealize()
  complete_resets();
  return ok();
}

void VirtioDevice::stay() {
  RHEA_CHECK(look_, "{} stays without having prepared to leave", id_);
  look_ = nullptr;
  post_reports(false);
  resume();
}

void VirtioDevice::move_queues(std::span<AioContext* const> contexts) {
  RHEA_CHECK(contexts.size() == queues_.size(), "{} is told where {} of {} queues go", id_,
             contexts.size(), queues_.size());
  RHEA_CHECK(paused_ != 0 && !busy(), "the queues of {} move while they run", id_);
  on_contexts([this](VirtioQueue& queue) { leave_here(queue); });
  for (size_t i = 0; i < contexts.size(); ++i) queues_[i]->context_ = contexts[i];
  on_contexts([this](VirtioQueue& queue) { enter_here(queue); });
}

// From here on the queue's context.

void VirtioDevice::start_here(VirtioQueue& queue, const Start& start) {
  auto rings = VirtQueue::create(start.config, start.features, host_.memory);
  if (!rings) {
    RHEA_LOG(kDevices, kDebug, "{}: queue {}: {}", id_, queue.index_, rings.error().message());
    return set_broken("a queue that can not run");
  }
  queue.rings_ = *std::move(rings);
  if (start.resumes) queue.rings_->resume_at(start.next_available, start.again);
  queue.tells_again_ = start.resumes;
  queue.paused_ = start.paused;
  enter_here(queue);
  // What the driver put there before it was ready to be rung.
  if (queue.watch_) run(queue);
}

/// Gives the queue its doorbell and its end of a turn here, if it has been started.
void VirtioDevice::enter_here(VirtioQueue& queue) {
  if (queue.rings_ == nullptr) return;
  queue.after_ = std::make_unique<Bh>(*queue.context_, [this, &queue] { after(queue); });
  if (queue.rings_->broken()) return;
  auto watch = queue.context_->watch(queue.kick_.get(), FdEvents::kRead, [this, &queue](FdEvents) {
    clear_eventfd(queue.kick_.get());
    run(queue);
  });
  if (!watch) {
    RHEA_LOG(kDevices, kWarn, "{}: queue {}: {}", id_, queue.index_, watch.error().message());
    return set_broken("a queue whose doorbell can not be watched");
  }
  queue.watch_ = *std::move(watch);
  // Who looks anyway need not be rung for: each ring may cost the guest an exit. What a starved
  // queue has left does not count: it is taken up from elsewhere.
  queue.watch_.set_ready_check(
      [&queue] { return !queue.starved_ && queue.rings_->has_available(); },
      {.begins =
           [&queue] {
             if (!queue.starved_) queue.rings_->suppress_notifications();
           },
       .ends =
           [&queue] {
             if (queue.starved_ || queue.rings_->enable_notifications()) return;
             signal_eventfd(queue.kick_.get());
           }});
  pause_watch(queue, queue.paused_);
}

/// It is paused and has nothing under way; what was completed is shown before it goes.
void VirtioDevice::leave_here(VirtioQueue& queue) {
  if (queue.rings_ == nullptr) return;
  after(queue);
  queue.after_.reset();
  queue.watch_ = {};
}

void VirtioDevice::pause_watch(VirtioQueue& queue, bool paused) {
  queue.paused_ = paused;
  if (queue.watch_) queue.watch_.set_events(paused ? FdEvents::kNone : FdEvents::kRead);
}

void VirtioDevice::pause_here(VirtioQueue& queue, bool paused) {
  pause_watch(queue, paused);
  // release: pairs with the acquire in busy()
  pauses_.fetch_sub(1, std::memory_order_release);
  host_.loop.waiter().kick();
  if (paused) return;
  tell_again(queue);
  run(queue);  // the doorbell may have rung meanwhile
}

void VirtioDevice::run(VirtioQueue& queue) {
  if (queue.rings_ == nullptr || queue.paused_ || queue.stopping_ || queue.in_pass_) return;
  queue.in_pass_ = true;
  queue.starved_ = false;
  VirtQueue& rings = *queue.rings_;
  rings.begin_pass();
  do {
    rings.suppress_notifications();
    queue.starved_ = serve(queue) == Served::kStarved;
  } while (!queue.starved_ && !rings.broken() && !rings.enable_notifications());
  queue.in_pass_ = false;
  if (rings.broken()) {
    queue.watch_ = {};
    set_broken(rings.reason());
  }
}

void VirtioDevice::show(VirtioQueue& queue) {
  if (queue.rings_->publish() && transport_ != nullptr) transport_->queue_interrupt(queue.index_);
}

/// At the end of a turn in which requests were completed.
void VirtioDevice::after(VirtioQueue& queue) {
  show(queue);
  if (queue.starved_) run(queue);
}

void VirtioDevice::request_ended(VirtioQueue& queue) {
  --queue.taken_;
  queue.uncount_request();
  if (queue.stopping_ && queue.taken_ == 0) finish_stop(queue);
}

void VirtioDevice::stop_here(VirtioQueue& queue) {
  queue.stopping_ = true;
  queue.watch_ = {};
  if (queue.taken_ == 0) return finish_stop(queue);
  stopping(queue);
}

void VirtioDevice::finish_stop(VirtioQueue& queue) {
  queue.after_.reset();
  queue.rings_.reset();
  queue.stopping_ = false;
  queue.starved_ = false;
  // release: pairs with the acquire in stops_pending()
  stops_.fetch_sub(1, std::memory_order_release);
  service_bh_->schedule();
  host_.loop.waiter().kick();
}

}  // namespace rhea::devices
