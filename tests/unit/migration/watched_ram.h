// RAM in an address space with dirty logging on, and a unit that writes to it by itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/address_space.h"
#include "memory/topology.h"
#include "tests/unit/migration/guest_stores.h"
#include "util/mutex.h"
#include "util/rcu.h"
#include "util/sync_point.h"

namespace rhea::migration::test {

inline std::shared_ptr<memory::RamBlock> make_block(uint64_t pages, std::string name = "ram") {
  memory::RamBlockConfig config;
  config.name = std::move(name);
  config.size_bytes = pages * memory::kDirtyPageBytes;
  return MUST(memory::RamBlock::create(config));
}

/// Blocks in an address space, watched by a listener, with dirty logging on.
class WatchedRam {
 public:
  static constexpr uint64_t kStride = uint64_t{1} << 32;  // between two blocks

  explicit WatchedRam(const std::vector<std::shared_ptr<memory::RamBlock>>& blocks,
                      std::shared_ptr<memory::MemoryListener> listener = nullptr)
      : root_("root", UINT64_MAX) {
    BqlGuard guard;
    space_.emplace("memory", root_);
    uint64_t at = 0;
    for (const auto& block : blocks) {
      regions_.push_back(std::make_unique<memory::MemoryRegion>(block->name(), block));
      root_.add(*regions_.back(), at);
      at += kStride;
    }
    if (listener) space_->register_listener(std::move(listener));
    MUST(memory::topology.start_dirty_log(memory::DirtyClient::kMigration));
  }
  ~WatchedRam() {
    {
      BqlGuard guard;
      memory::topology.stop_dirty_log(memory::DirtyClient::kMigration);
      for (auto& region : regions_) root_.remove(*region);
      space_.reset();
    }
    rcu_drain_callbacks();
  }
  WatchedRam(const WatchedRam&) = delete;
  WatchedRam& operator=(const WatchedRam&) = delete;
  memory::AddressSpace& space() { return *space_; }
  memory::MemoryRegion& root() { return root_; }

 private:
  RcuThread self_;
  memory::MemoryRegion root_;
  std::vector<std::unique_ptr<memory::MemoryRegion>> regions_;
  std::optional<memory::AddressSpace> space_;
};

/// A unit that writes to RAM as a vhost backend does: only it knows which pages, until it is asked
/// or goes. Once it went, it writes no more.
/// Thread: write() on any.
class DmaUnit : public memory::MemoryListener {
 public:
  /// What becomes of the pages that only it knows as it goes; to forget them is a defect.
  enum class Leaving : uint8_t { kTells, kForgets };
  /// `alive`: how many there are.
  explicit DmaUnit(std::atomic<int>& alive, Leaving leaving = Leaving::kTells)
      : alive_(alive), leaving_(leaving) {
    ++alive_;
  }
  ~DmaUnit() override {
    magic_ = 0;
    --alive_;
  }

  /// Writes `value` to page `page` of `ram`, unless it is gone from there.
  void write(memory::RamBlock& ram, uint64_t page, uint64_t value) {
    const MutexLock lock(mutex_);
    for (Reached& reached : reached_) {
      if (reached.ram != &ram) continue;
      stamp(ram.host() + page * memory::kDirtyPageBytes, value);
      reached.written[page / memory::kPagesPerWord] |= uint64_t{1} << page % memory::kPagesPerWord;
    }
  }

  void region_add(const memory::Section& section) override {
    const MutexLock lock(mutex_);
    if (section.ram == nullptr) return;
    const uint64_t pages = section.ram->dirty().pages();
    reached_.push_back({section.ram, std::vector<uint64_t>(pages / memory::kPagesPerWord + 1)});
  }
  void region_del(const memory::Section& section) override {
    const MutexLock lock(mutex_);
    if (leaving_ == Leaving::kTells) tell(section);
    std::erase_if(reached_, [&](const Reached& r) { return r.ram == section.ram; });
  }
  void log_sync(const memory::Section& section) override {
    note_call();
    RHEA_SYNC_POINT("DmaUnit: asked");
    const MutexLock lock(mutex_);
    tell(section);
  }
  void log_clear(const memory::Section&, uint64_t, uint64_t) override {
    note_call();
    RHEA_SYNC_POINT("DmaUnit: asked");
  }

  static inline std::atomic<int> calls = 0;
  static inline std::atomic<int> calls_too_late = 0;  // on one that is destroyed

 private:
  static constexpr uint64_t kMagic = 0x6c697374656e6572;
  struct Reached {
    memory::RamBlock* ram = nullptr;
    std::vector<uint64_t> written;  // a bit per page
  };

  void note_call() const {
    ++calls;
    if (*const_cast<const volatile uint64_t*>(&magic_) != kMagic) ++calls_too_late;
  }
  void tell(const memory::Section& section) REQUIRES(mutex_) {
    for (Reached& reached : reached_) {
      if (reached.ram != section.ram) continue;
      section.ram->dirty().merge(0, reached.written);
      reached.written.assign(reached.written.size(), 0);
    }
  }

  std::atomic<int>& alive_;
  const Leaving leaving_;
  uint64_t magic_ = kMagic;
  Mutex mutex_{LockRank::kMemslots};
  std::vector<Reached> reached_ GUARDED_BY(mutex_);
};

}  // namespace rhea::migration::test
