// How a virtio device's registers and rings are saved and loaded.
#include <algorithm>
#include <bit>
#include <iterator>
#include <ranges>
#include <utility>

#include "devices/internal/virtio_status.h"
#include "devices/saved_device.h"
#include "devices/virtio/virtio_device.h"
#include "util/check.h"

namespace rhea::devices {
namespace {

using namespace internal;
using enum VirtioStatus;

constexpr std::array kPhases{uint8_t{0}, kFound, kDriven, kNegotiated, kLive};

}  // namespace

std::string VirtioDevice::settings() const {
  std::string sizes;
  for (size_t first = 0; first < queues_.size();) {
    const uint16_t size = queues_[first]->max_size_;
    size_t end = first;
    while (end < queues_.size() && queues_[end]->max_size_ == size) ++end;
    fmt::format_to(std::back_inserter(sizes), "{}{}x{}", first == 0 ? "" : "+", end - first, size);
    first = end;
  }
  return fmt::format("queues={} features={:#x}", sizes, offered_features());
}

VirtioDeviceState VirtioDevice::driver_state() {
  // What no drain knows of: commands that ask no disk for anything, a task management function on
  // its way round the contexts, a reset.
  const auto quiet = [this] { return !stops_pending() && !busy(); };
  const bool settled = host_.loop.waiter().until(host_.loop.gs(), quiet, kHoldPatience);
  RHEA_CHECK(settled, "{} is saved while it has something under way", id_);
  // Its contexts are on their way out of what told us so; and main completes what they have
  // stopped: a driver that waits for its reset finds it done on the other side.
  on_contexts([](VirtioQueue&) {});
  serve_main();
  VirtioDeviceState state{.status = status_,
                          .driver_features = driver_features_,
                          .config_generation = generation_,
                          .queues = std::vector<VirtioQueueState>(queues_.size())};
  for (size_t i = 0; i < queues_.size(); ++i) {
    const VirtioQueue& queue = *queues_[i];
    VirtioQueueState& to = state.queues[i];
    to.size = queue.config_.size;
    to.descriptors = queue.config_.descriptors;
    to.available = queue.config_.available;
    to.used = queue.config_.used;
    to.enabled = queue.enabled_;
    to.broken = queue.running_;  // unless there are rings
  }
  on_contexts([this, &state](VirtioQueue& queue) {
    if (queue.rings_ == nullptr) return;
    after(queue);  // what was completed is shown before it goes
    rings_state(queue, state.queues[queue.index_]);
  });
  return state;
}

/// On the queue's context.
void VirtioDevice::rings_state(const VirtioQueue& queue, VirtioQueueState& state) {
  const VirtQueue& rings = *queue.rings_;
  state.broken = rings.broken();
  if (state.broken) return;
  RHEA_CHECK(queue.parked_.size() == queue.taken_, "a request is neither parked nor ended");
  state.next_available = rings.next_available();
  for (const uint16_t head : queue.parked_) state.again.push_back({head});
  // The last one is the next that the rings give.
  for (const uint16_t head : rings.again() | std::views::reverse) state.again.push_back({head});
}

Result<void> VirtioDevice::check_driver_state(const VirtioDeviceState& state) const {
  const uint8_t others = bits(kNeedsReset, kFailed);
  TRY(check_bits("status", state.status, kProgress | others));
  const uint8_t phase = state.status & kProgress;
  if (std::ranges::find(kPhases, phase) == kPhases.end()) {
    return bad_state("status", "{:#x} is none that a driver gets to", state.status);
  }
  if ((phase & bits(kFeaturesOk)) != 0) {
    TRY(check_bits("driver_features", state.driver_features, offered_features()));
    if (!has(state.driver_features, VirtioFeature::kVersion1)) {
      return bad_state("driver_features", "{:#x} are a legacy driver's", state.driver_features);
    }
  }
  if (state.queues.size() != queues_.size()) {
    return bad_state("queues", "{} queues, expected {}", state.queues.size(), queues_.size());
  }
  for (const auto& queue : queues_) {
    if (auto checked = check_queue_state(state, *queue); !checked) {
      return std::move(checked).error().context(fmt::format("field 'queues[{}]'", queue->index_));
    }
  }
  return ok();
}

Result<void> VirtioDevice::check_queue_state(const VirtioDeviceState& state,
                                             const VirtioQueue& queue) const {
  const VirtioQueueState& from = state.queues[queue.index_];
  const uint8_t phase = state.status & kProgress;
  if (!std::has_single_bit(from.size) || from.size > queue.max_size_) {
    return bad_state("size", "{}, ours is {}", from.size, queue.max_size_);
  }
  if (from.enabled && (phase & bits(kFeaturesOk)) == 0) {
    return bad_state("enabled", "true with status {:#x}", state.status);
  }
  const bool has_rings = from.enabled && phase == kLive && !from.broken;
  if (!has_rings) {
    if (from.broken && phase != kLive) return bad_state("broken", "true, but it does not run");
    TRY(check_at_most("next_available", from.next_available, 0));
    return check_at_most("again.size", from.again.size(), 0);
  }
  TRY(check_at_most("again.size", from.again.size(), from.size));
  for (const auto& [head] : from.again) TRY(check_at_most("again", head, from.size - 1));
  const VirtQueueConfig config{from.size, from.descriptors, from.available, from.used};
  TRY(VirtQueue::create(config, ring_features(state.driver_features), host_.memory));
  return ok();
}

void VirtioDevice::set_driver_state(const VirtioDeviceState& state) {
  if (status_ != 0) reset_now();
  RHEA_CHECK(status_ == 0 && !resetting_, "{} is loaded while it has something under way", id_);
  if (!std::exchange(loaded_, true)) pause();
  status_ = state.status;
  driver_features_ = state.driver_features;
  generation_ = state.config_generation;
  const bool live = (status_ & kProgress) == kLive;
  if (live) activated(driver_features_);
  for (const auto& queue : queues_) {
    const VirtioQueueState& from = state.queues[queue->index_];
    queue->config_ = {from.size, from.descriptors, from.available, from.used};
    queue->enabled_ = from.enabled;
    if (!live || !from.enabled) continue;
    queue->running_ = true;
    if (from.broken) continue;  // it has no rings, and needs none
    Start start{queue->config_, ring_features(driver_features_), true};
    start.resumes = true;
    start.next_available = from.next_available;
    for (const auto& [head] : from.again) start.again.push_back(head);
    post_start(*queue, std::move(start));
  }
}

void VirtioDevice::resume_loaded() {
  if (std::exchange(loaded_, false)) resume();
}

/// On the queue's context. The last interrupts of the machine that was left may have been on their
/// way to it when its local APICs were saved: the host delivers some of them from a thread of its
/// own, and says nothing of it.
void VirtioDevice::tell_again(VirtioQueue& queue) {
  if (!std::exchange(queue.tells_again_, false) || queue.rings_ == nullptr) return;
  if (queue.rings_->may_wait_for_interrupt() && transport_ != nullptr) {
    transport_->queue_interrupt(queue.index_);
  }
}

}  // namespace rhea::devices
