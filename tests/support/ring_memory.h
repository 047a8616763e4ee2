// RingMemory: guest memory of every kind that a ring or a descriptor may point at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>

#include "memory/address_space.h"
#include "memory/guest_memory.h"
#include "memory/io_handler.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/rcu.h"

namespace rhea::test {

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

  /// Only within the two blocks.
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

}  // namespace rhea::test
