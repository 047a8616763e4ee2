// WrittenPages: which pages have been stored to.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migration/multifd_packet.h"

namespace rhea::migration {

/// Thread: any. relaxed everywhere: a page is received by one channel in a round, and rounds are
/// ordered by the sync between them; a bit is news to its own thread only.
class WrittenPages {
 public:
  explicit WrittenPages(std::span<const RamView> ram) {
    for (const RamView& view : ram) {
      blocks_.push_back(std::make_unique<std::atomic<uint64_t>[]>(view.pages() / kBits + 1));
      const auto block = static_cast<uint32_t>(blocks_.size() - 1);
      for (uint32_t page = 0; page < view.touched.size(); ++page) {
        if (view.touched[page]) set(block, page);
      }
    }
  }

  bool test(uint32_t block, uint32_t page) const noexcept {
    return (word(block, page).load(std::memory_order_relaxed) & bit(page)) != 0;
  }
  void set(uint32_t block, uint32_t page) noexcept {
    if (!test(block, page)) word(block, page).fetch_or(bit(page), std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kBits = 64;
  static constexpr uint64_t bit(uint32_t page) { return uint64_t{1} << page % kBits; }
  std::atomic<uint64_t>& word(uint32_t block, uint32_t page) const noexcept {
    return blocks_[block][page / kBits];
  }

  std::vector<std::unique_ptr<std::atomic<uint64_t>[]>> blocks_;
};

}  // namespace rhea::migration
