#include "memory/dirty_bitmap.h"

#include <algorithm>
#include <bit>

#include "util/check.h"

namespace rhea::memory {
namespace {

// The words that [offset, offset + size) touches, and which of their bits.
struct BitRange {
  BitRange(uint64_t offset, uint64_t size_bytes)
      : first_page(offset / kDirtyPageBytes),
        last_page((offset + size_bytes - 1) / kDirtyPageBytes) {}

  uint64_t first_word() const { return first_page / kPagesPerWord; }
  uint64_t last_word() const { return last_page / kPagesPerWord; }
  uint64_t mask(uint64_t word) const {
    uint64_t mask = ~uint64_t{0};
    if (word == first_word()) mask &= ~uint64_t{0} << (first_page % kPagesPerWord);
    if (word == last_word())
      mask &= ~uint64_t{0} >> (kPagesPerWord - 1 - last_page % kPagesPerWord);
    return mask;
  }

  uint64_t first_page;
  uint64_t last_page;
};

}  // namespace

namespace internal {

std::atomic<uint32_t> logging_clients = 0;

}  // namespace internal

DirtyBitmap::DirtyBitmap(uint64_t size_bytes)
    : pages_((size_bytes + kDirtyPageBytes - 1) / kDirtyPageBytes),
      words_((pages_ + kPagesPerWord - 1) / kPagesPerWord),
      bits_(static_cast<uint64_t*>(std::calloc(words_ * kDirtyClients, sizeof(uint64_t)))) {
  RHEA_CHECK(bits_ != nullptr, "no memory for a dirty bitmap of {} words", words_);
}

std::atomic_ref<uint64_t> DirtyBitmap::word(DirtyClient client, uint64_t index) const noexcept {
  RHEA_CHECK(index < words_, "dirty bitmap word {} of {}", index, words_);
  return std::atomic_ref<uint64_t>(bits_[static_cast<uint64_t>(client) * words_ + index]);
}

uint64_t DirtyBitmap::valid_bits(uint64_t index) const noexcept {
  const uint64_t left = pages_ - index * kPagesPerWord;
  return left >= kPagesPerWord ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

void DirtyBitmap::set_range(DirtyClient client, uint64_t offset, uint64_t size_bytes) noexcept {
  if (size_bytes == 0) return;
  const BitRange range(offset, size_bytes);
  for (uint64_t w = range.first_word(); w <= range.last_word(); ++w) {
    // release: pairs with the acquire of the clearing functions (see the class)
    word(client, w).fetch_or(range.mask(w), std::memory_order_release);
  }
}

void DirtyBitmap::mark_for(uint32_t clients, uint64_t offset, uint64_t size_bytes) noexcept {
  for (unsigned c = 0; c < kDirtyClients; ++c) {
    if ((clients >> c & 1) != 0) set_range(static_cast<DirtyClient>(c), offset, size_bytes);
  }
}

void DirtyBitmap::merge(uint64_t first_word, std::span<const uint64_t> words) noexcept {
  const uint32_t clients = internal::logging_clients.load(std::memory_order_relaxed);
  for (size_t i = 0; i < words.size() && first_word + i < words_; ++i) {
    const uint64_t bits = words[i] & valid_bits(first_word + i);
    if (bits == 0) continue;
    for (unsigned c = 0; c < kDirtyClients; ++c) {
      // release: as in set_range()
      if ((clients >> c & 1) != 0) {
        word(static_cast<DirtyClient>(c), first_word + i).fetch_or(bits, std::memory_order_release);
      }
    }
  }
}

bool DirtyBitmap::test(DirtyClient client, uint64_t page) const noexcept {
  RHEA_CHECK(page < pages_, "page {} of {}", page, pages_);
  // acquire: pairs with the release of set_range()
  const uint64_t bits = word(client, page / kPagesPerWord).load(std::memory_order_acquire);
  return (bits >> (page % kPagesPerWord) & 1) != 0;
}

uint64_t DirtyBitmap::test_and_clear_word(DirtyClient client, uint64_t index) noexcept {
  auto bits = word(client, index);
  // relaxed: only an idle word is skipped; a bit that is set later is found by the next pass
  if (bits.load(std::memory_order_relaxed) == 0) return 0;
  // acquire: pairs with the release of set_range(): what it marked is read after this
  return bits.exchange(0, std::memory_order_acquire);
}

bool DirtyBitmap::test_and_clear_range(DirtyClient client, uint64_t offset,
                                       uint64_t size_bytes) noexcept {
  if (size_bytes == 0) return false;
  const BitRange range(offset, size_bytes);
  bool any = false;
  for (uint64_t w = range.first_word(); w <= range.last_word(); ++w) {
    const uint64_t mask = range.mask(w);
    // acquire: pairs with the release of set_range()
    any |= (word(client, w).fetch_and(~mask, std::memory_order_acquire) & mask) != 0;
  }
  return any;
}

uint64_t DirtyBitmap::count(DirtyClient client) const noexcept {
  uint64_t total = 0;
  for (uint64_t w = 0; w < words_; ++w) {
    // relaxed: a statistic, orders nothing
    total += static_cast<uint64_t>(std::popcount(word(client, w).load(std::memory_order_relaxed)));
  }
  return total;
}

}  // namespace rhea::memory
