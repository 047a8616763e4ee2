// What the memory tests share: a machine with one address space, and devices that record.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/rcu.h"

namespace rhea::test {

inline std::shared_ptr<memory::RamBlock> make_ram(uint64_t size_bytes) {
  memory::RamBlockConfig config;
  config.name = "test";
  config.size_bytes = size_bytes;
  return MUST(memory::RamBlock::create(config));
}

/// An address space over an empty root. The test's thread is registered with RCU and does not hold
/// the BQL, as a vCPU.
class Machine {
 public:
  explicit Machine(uint64_t size_bytes = UINT64_MAX) : root_("root", size_bytes) {
    BqlGuard guard;
    space_.emplace("memory", root_);
  }
  ~Machine() {
    {
      BqlGuard guard;
      space_.reset();
    }
    rcu_drain_callbacks();
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  memory::AddressSpace& space() { return *space_; }
  memory::MemoryRegion& root() { return root_; }
  void add(memory::MemoryRegion& region, uint64_t offset, int priority = 0) {
    BqlGuard guard;
    root_.add(region, offset, priority);
  }
  void remove(memory::MemoryRegion& region) {
    BqlGuard guard;
    root_.remove(region);
  }

 private:
  RcuThread self_;
  memory::MemoryRegion root_;
  std::optional<memory::AddressSpace> space_;
};

/// A device that notes every access and answers each byte with `fill`.
class Recorder : public memory::IoHandler {
 public:
  struct Call {
    char kind;  // 'r' or 'w'
    uint64_t offset;
    uint64_t value;  // of a write
    unsigned size;
    friend bool operator==(const Call&, const Call&) = default;
  };

  explicit Recorder(uint8_t fill) : fill_(fill) {}
  uint64_t io_read(uint64_t offset, unsigned size) override {
    calls.push_back({'r', offset, 0, size});
    return 0x0101010101010101 * fill_;
  }
  void io_write(uint64_t offset, uint64_t value, unsigned size) override {
    calls.push_back({'w', offset, value, size});
  }

  std::vector<Call> calls;

 private:
  const uint8_t fill_;
};

}  // namespace rhea::test
