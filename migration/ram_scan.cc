#include "migration/ram_scan.h"

#include <algorithm>
#include <bit>

#include "memory/topology.h"

namespace rhea::migration {
namespace {

constexpr auto kClient = memory::DirtyClient::kMigration;

}  // namespace

RamScan::RamScan(std::vector<std::shared_ptr<memory::RamBlock>> blocks)
    : blocks_(std::move(blocks)) {}

void RamScan::mark_all() {
  for (const auto& block : blocks_) block->dirty().set_range(kClient, 0, block->size_bytes());
}

uint64_t RamScan::begin_pass() {
  memory::topology.sync_dirty_log();
  word_ = kChunkWords;
  block_ = 0;
  next_first_page_ = 0;
  uint64_t pages = 0;
  for (const auto& block : blocks_) pages += block->dirty().count(kClient);
  return pages;
}

std::optional<DirtyPages> RamScan::next(size_t max_pages) {
  pages_.clear();
  while (pages_.size() < max_pages) {
    while (word_ < kChunkWords && bits_[word_] == 0) ++word_;
    if (word_ == kChunkWords) {
      // A batch is of one block, and of one chunk: simple, and a chunk is far more than a batch.
      if (!pages_.empty() || !take_chunk()) break;
      continue;
    }
    const auto bit = static_cast<uint64_t>(std::countr_zero(bits_[word_]));
    bits_[word_] &= bits_[word_] - 1;
    pages_.push_back(
        static_cast<uint32_t>(chunk_first_page_ + word_ * memory::kPagesPerWord + bit));
  }
  if (pages_.empty()) return std::nullopt;
  return DirtyPages{static_cast<uint32_t>(block_), pages_};
}

// The next chunk with a dirty page; false at the end of the pass.
bool RamScan::take_chunk() {
  while (block_ < blocks_.size()) {
    memory::RamBlock& block = *blocks_[block_];
    const uint64_t pages = block.dirty().pages();
    if (next_first_page_ >= pages) {
      ++block_;
      next_first_page_ = 0;
      continue;
    }
    chunk_first_page_ = next_first_page_;
    next_first_page_ += kChunkPages;
    if (!take_words(block.dirty(), chunk_first_page_ / memory::kPagesPerWord)) continue;
    const uint64_t offset = chunk_first_page_ * memory::kDirtyPageBytes;
    memory::topology.clear_dirty_log(
        block, offset,
        std::min(block.size_bytes() - offset, kChunkPages * memory::kDirtyPageBytes));
    word_ = 0;
    return true;
  }
  return false;
}

bool RamScan::take_words(memory::DirtyBitmap& dirty, uint64_t first_word) {
  uint64_t any = 0;
  for (size_t i = 0; i < kChunkWords; ++i) {
    const uint64_t word = first_word + i;
    bits_[i] = word < dirty.words() ? dirty.test_and_clear_word(kClient, word) : 0;
    any |= bits_[i];
  }
  return any != 0;
}

}  // namespace rhea::migration
