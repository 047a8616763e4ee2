// A split ring in guest memory, word by word, and the queue that serves it.
#pragma once

#include <atomic>
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/virt_queue.h"
#include "memory/address_space.h"
#include "memory/io_handler.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/rcu.h"

namespace rhea::test {

inline constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

/// Two blocks of RAM side by side, a ROM and a device's registers; the rest is a hole.
/// Thread: main, with the BQL.
class RingMemory {
 public:
  static constexpr uint64_t kBlock = 1 << 20, kHighBlock = 8 << 20;
  static constexpr uint64_t kRamEnd = kBlock + kHighBlock;
  static constexpr uint64_t kRom = 16 << 20, kDevice = 24 << 20, kHole = 32 << 20;

  RingMemory() REQUIRES(bql) {
    root_.add(low_, 0);
    root_.add(high_, kBlock);
    root_.add(rom_, kRom);
    root_.add(io_, kDevice);
    space_.emplace("memory", root_);
  }
  ~RingMemory() {
    bql.assert_held();
    space_.reset();
    for (memory::MemoryRegion* region : {&low_, &high_, &rom_, &io_, &late_}) {
      if (region != &late_ || late_added_) root_.remove(*region);
    }
  }
  memory::GuestMemory dma() { return memory::GuestMemory(*space_); }
  memory::DirtyBitmap& dirty() { return low_block_->dirty(); }
  uint64_t device_accesses() const { return registers_.accesses; }
  /// Any change of the memory map.
  void change_map() REQUIRES(bql) {
    root_.add(late_, kHole);
    late_added_ = true;
  }
  void set_high_enabled(bool enabled) REQUIRES(bql) { high_.set_enabled(enabled); }
  void set_low_enabled(bool enabled) REQUIRES(bql) { low_.set_enabled(enabled); }

  std::byte* host(uint64_t address) {
    return address < kBlock ? low_block_->host() + address : high_block_->host() + address - kBlock;
  }
  template <class T>
  void put(uint64_t address, T value) {
    std::memcpy(host(address), &value, sizeof value);
  }
  template <class T>
  T get(uint64_t address) {
    T value;
    std::memcpy(&value, host(address), sizeof value);
    return value;
  }

 private:
  struct Registers final : memory::IoHandler {
    uint64_t io_read(uint64_t, unsigned) override { return ++accesses; }
    void io_write(uint64_t, uint64_t, unsigned) override { ++accesses; }
    uint64_t accesses = 0;
  };
  static std::shared_ptr<memory::RamBlock> make_block(uint64_t size_bytes = kBlock) {
    memory::RamBlockConfig config;
    config.name = "ram";
    config.size_bytes = size_bytes;
    return MUST(memory::RamBlock::create(config));
  }
  RcuThread self_;
  Registers registers_;
  std::shared_ptr<memory::RamBlock> low_block_ = make_block(), high_block_ = make_block(kHighBlock);
  memory::MemoryRegion root_{"root", UINT64_MAX};
  memory::MemoryRegion low_{"low", low_block_}, high_{"high", high_block_};
  memory::MemoryRegion rom_{"rom", make_block(), memory::MemoryRegion::RamMode::kReadOnly};
  memory::MemoryRegion io_{"io", 0x1000, registers_};
  memory::MemoryRegion late_{"late", make_block()};
  bool late_added_ = false;
  std::optional<memory::AddressSpace> space_;
};

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
