// RamScan: finds the pages that are to be sent, pass after pass.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "memory/dirty_bitmap.h"
#include "memory/ram_block.h"

namespace rhea::migration {

/// Pages of one block, in ascending order.
struct DirtyPages {
  uint32_t block = 0;               ///< index into the scan's list of blocks
  std::span<const uint32_t> pages;  ///< of memory::kDirtyPageBytes; valid until the next call
};

/// Walks the dirty bitmaps of all RAM. A page that is written behind the walk belongs to the next
/// pass; one ahead of it may be found in this one, and is then found once.
///
/// A chunk's bits are taken all at once; then the accelerator is told to watch the chunk again; and
/// only then its pages are handed out to be read. So a write is either in what is read, or makes
/// the page dirty again. An accelerator that write-protects does so chunk by chunk, as the walk
/// comes along, and not for all of RAM at the start.
///
/// Thread: one, registered with RCU, and not with the BQL held. Dirty logging is on.
/// Units: pages of memory::kDirtyPageBytes.
class RamScan {
 public:
  static constexpr uint64_t kChunkPages = 8192;  // 32 MiB

  explicit RamScan(std::vector<std::shared_ptr<memory::RamBlock>> blocks);
  RamScan(const RamScan&) = delete;
  RamScan& operator=(const RamScan&) = delete;

  /// Has all of RAM sent in the pass that begins next.
  void mark_all();
  /// Fetches what the accelerator knows and starts at the first block. Returns how many pages are
  /// dirty now: what this pass is about to send, give or take what is written meanwhile.
  uint64_t begin_pass();
  /// Up to `max_pages` of one block; nothing when the pass is over.
  std::optional<DirtyPages> next(size_t max_pages);

  const std::vector<std::shared_ptr<memory::RamBlock>>& blocks() const noexcept { return blocks_; }

 private:
  static constexpr size_t kChunkWords = kChunkPages / memory::kPagesPerWord;

  bool take_chunk();
  bool take_words(memory::DirtyBitmap& dirty, uint64_t first_word);

  const std::vector<std::shared_ptr<memory::RamBlock>> blocks_;
  std::array<uint64_t, kChunkWords> bits_{};  // of the chunk that is being handed out
  size_t word_ = kChunkWords;                 // the first of them that may have a bit left
  size_t block_ = 0;                          // whose chunk it is
  uint64_t chunk_first_page_ = 0;
  uint64_t next_first_page_ = 0;  // of the chunk after it, in the same block
  std::vector<uint32_t> pages_;
};

}  // namespace rhea::migration
