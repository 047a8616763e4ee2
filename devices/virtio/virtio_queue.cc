#include "devices/virtio/virtio_queue.h"

#include <algorithm>

#include "devices/virtio/virtio_device.h"

namespace rhea::devices {

bool VirtioQueue::pop(VirtqElement& element) {
  if (rings_ == nullptr || !rings_->pop(element)) return false;
  ++taken_;
  count_request();
  return true;
}

void VirtioQueue::complete(VirtqElement& element, uint32_t written) {
  if (stopping_) {
    rings_->drop(element);  // the driver has given up on it
  } else {
    rings_->push(element, written);
    after_->schedule();
  }
  device_.request_ended(*this);
}

void VirtioQueue::show() {
  if (rings_ != nullptr) device_.show(*this);
}

void VirtioQueue::reject(VirtqElement& element, const char* reason) {
  rings_->reject(element, reason);
  device_.set_broken(reason);
  device_.request_ended(*this);
}

void VirtioQueue::park(const VirtqElement& element) {
  parked_.push_back(element.head());
  uncount_request();
}

void VirtioQueue::unpark(const VirtqElement& element) {
  parked_.erase(std::ranges::find(parked_, element.head()));
  count_request();
}

void VirtioQueue::count_request() {
  // One writer, so no atomic addition. relaxed: others look after an acknowledgement of this thread
  requests_.store(requests_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void VirtioQueue::uncount_request() {
  // release: pairs with the acquire in busy()
  requests_.store(requests_.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  device_.host_.loop.waiter().kick();
  if (reports_ && requests_.load(std::memory_order_relaxed) == 0) device_.service_bh_->schedule();
}

}  // namespace rhea::devices
