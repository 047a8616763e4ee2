// VirtioQueue: one queue of a device: the driver's settings, and what runs on the queue's context.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/virtio/virt_queue.h"
#include "util/aio_context.h"
#include "util/fd.h"

namespace rhea::devices {

class VirtioDevice;

/// One queue: what the driver has configured, and what runs on the queue's context.
///
/// Thread: the configuration under the BQL; the rest on the context's home thread, but for the
/// atomics.
class VirtioQueue {
 public:
  /// The rings, while they run; null otherwise.
  VirtQueue* rings() noexcept { return rings_.get(); }
  unsigned index() const noexcept { return index_; }
  AioContext& context() const noexcept { return *context_; }
  /// Takes an element off; see VirtQueue::pop(). Counts the request.
  bool pop(VirtqElement& element);
  /// Gives it back; the driver hears of it at the end of the context's turn. Also what the last
  /// request of a stopping queue ends with.
  void complete(VirtqElement& element, uint32_t written);
  /// The driver is to see now, and not at the turn's end, what was given back: something that it
  /// hears of elsewhere depends on it.
  void show();
  /// Instead of complete(), for a request that makes no sense at all: the driver has to reset.
  void reject(VirtqElement& element, const char* reason);
  /// Its driver's reset is under way: what waits gives up. Any thread.
  bool stopping() const noexcept {
    return stopping_.load(std::memory_order_acquire);  // pairs with the stores in VirtioDevice
  }
  /// A request waits for a person (an I/O error that stopped the machine): a drain does not wait
  /// for it. Each park() is followed by one unpark() before the request goes on. A guest that is
  /// moved meanwhile takes it along, by its head.
  void park(const VirtqElement& element);
  void unpark(const VirtqElement& element);

 private:
  friend class VirtioDevice;
  VirtioQueue(VirtioDevice& device, unsigned index) : device_(device), index_(index) {}
  void count_request();
  void uncount_request();

  VirtioDevice& device_;
  const unsigned index_;
  AioContext* context_ = nullptr;  // main changes it while nothing of the queue runs
  Fd kick_;                        // the doorbell's eventfd

  // The driver's, under the BQL.
  VirtQueueConfig config_;
  uint16_t max_size_ = 0;
  bool enabled_ = false;
  bool running_ = false;  // started, and not asked to stop
  bool resetting_ = false;

  // The context's home thread.
  std::unique_ptr<VirtQueue> rings_;
  FdWatch watch_;
  std::unique_ptr<Bh> after_;  // shows what was completed, goes on with what was left
  bool paused_ = false;
  std::atomic<bool> stopping_{false};  // others read it
  bool in_pass_ = false;
  bool starved_ = false;
  bool tells_again_ = false;           // once it runs: it was loaded
  bool reports_ = false;               // tells main whenever nothing is under way
  std::vector<uint16_t> parked_;       // heads, while they wait for the machine
  uint32_t taken_ = 0;                 // requests taken and not completed
  std::atomic<uint32_t> requests_{0};  // of these, those not parked; others read it
};

}  // namespace rhea::devices
