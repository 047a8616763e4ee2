// A split ring in guest memory, word by word, and the queue that serves it.
#pragma once

#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>

#include "devices/virtio/virt_queue.h"
#include "tests/support/ring_memory.h"
#include "util/bql.h"

namespace rhea::test {

inline constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

/// One queue. Descriptors, ring entries and indices are what a test says, right or wrong.
class Ring {
 public:
  using Features = devices::VirtQueue::Features;
  static constexpr uint64_t kDescriptors = 0x1'0000, kAvailable = 0x2'0000, kUsed = 0x3'0000;
  static constexpr uint64_t kTable = 0x4'0000, kData = 0x5'0000;

  explicit Ring(uint16_t size = 8, Features features = Features::kBoth) REQUIRES(bql)
      : size_(size), features_(features) {
    queue_ = MUST(create());
  }
  Result<std::unique_ptr<devices::VirtQueue>> create() {
    return devices::VirtQueue::create(config(), features_, memory.dma());
  }
  devices::VirtQueueConfig config() const {
    return {.size = size_, .descriptors = kDescriptors, .available = kAvailable, .used = kUsed};
  }

  // The driver.
  void describe(uint16_t index, uint64_t address, uint32_t length, uint16_t flags,
                uint16_t next = 0, uint64_t table = kDescriptors) {
    memory.put(table + 16 * uint64_t{index}, devices::VirtqDesc{address, length, flags, next});
  }
  void offer(uint16_t head) {
    memory.put(kAvailable + 4 + 2 * uint64_t(next_offer_ % size_), head);
    memory.put(kAvailable + 2, ++next_offer_);
  }
  /// Puts a chain of one readable byte at descriptor 0 and offers it.
  void offer_one() {
    describe(0, kData, 1, 0);
    offer(0);
  }
  void set_available_index(uint16_t index) { memory.put(kAvailable + 2, index); }
  void set_available_flags(uint16_t flags) { memory.put(kAvailable, flags); }
  void set_used_event(uint16_t index) { memory.put(kAvailable + 4 + 2 * uint64_t{size_}, index); }
  uint16_t used_flags() { return memory.get<uint16_t>(kUsed); }
  uint16_t used_index() { return memory.get<uint16_t>(kUsed + 2); }
  uint16_t avail_event() { return memory.get<uint16_t>(kUsed + 4 + 8 * uint64_t{size_}); }
  uint32_t used_id(uint16_t at) {
    return memory.get<uint32_t>(kUsed + 4 + 8 * uint64_t(at % size_));
  }
  uint32_t used_length(uint16_t at) {
    return memory.get<uint32_t>(kUsed + 8 + 8 * uint64_t(at % size_));
  }

  // The device.
  devices::VirtQueue& queue() { return *queue_; }
  bool pop() { return queue_->pop(element); }
  /// Takes one request and gives it back; whether the driver wants to hear of it.
  bool serve_one(uint32_t written = 0) {
    REQUIRE(pop());
    queue_->push(element, written);
    return queue_->publish();
  }

  RingMemory memory;
  devices::VirtqElement element;

 private:
  const uint16_t size_;
  const Features features_;
  uint16_t next_offer_ = 0;
  std::unique_ptr<devices::VirtQueue> queue_;
};

}  // namespace rhea::test
