#include "block/dirty_map.h"

#include <algorithm>

namespace rhea::block {
namespace {

constexpr uint64_t kBits = 64;

}  // namespace

DirtyMap::DirtyMap(uint64_t length, uint64_t granularity)
    : length_(length),
      granularity_(granularity),
      granules_((length + granularity - 1) / granularity),
      words_(std::make_unique<std::atomic<uint64_t>[]>((granules_ + kBits - 1) / kBits)) {}

void DirtyMap::mark(uint64_t offset, uint64_t size) noexcept {
  if (size == 0) return;
  const uint64_t last = std::min(granules_ - 1, (offset + size - 1) / granularity_);
  for (uint64_t granule = offset / granularity_; granule <= last; ++granule) {
    const uint64_t bit = uint64_t{1} << (granule % kBits);
    // release: pairs with the acquire in test_and_clear()
    if ((words_[granule / kBits].fetch_or(bit, std::memory_order_release) & bit) == 0) {
      marked_.fetch_add(1, std::memory_order_release);
    }
  }
}

void DirtyMap::mark_all() noexcept { mark(0, length_); }

bool DirtyMap::test_and_clear(uint64_t granule) noexcept {
  const uint64_t bit = uint64_t{1} << (granule % kBits);
  if ((words_[granule / kBits].load(std::memory_order_relaxed) & bit) == 0) return false;
  if ((words_[granule / kBits].fetch_and(~bit, std::memory_order_acq_rel) & bit) == 0) return false;
  marked_.fetch_sub(1, std::memory_order_release);
  return true;
}

std::optional<DirtyMap::Run> DirtyMap::take(uint64_t from, uint64_t most) noexcept {
  uint64_t granule = from / granularity_;
  while (granule < granules_) {
    if (granule % kBits == 0 && words_[granule / kBits].load(std::memory_order_relaxed) == 0) {
      granule += kBits;
    } else if (test_and_clear(granule)) {
      break;
    } else {
      ++granule;
    }
  }
  if (granule >= granules_) return std::nullopt;
  const uint64_t first = granule++;
  const uint64_t limit = std::max<uint64_t>(1, most / granularity_);
  while (granule < granules_ && granule - first < limit && test_and_clear(granule)) ++granule;
  const uint64_t offset = first * granularity_;
  return Run{offset, std::min(granule * granularity_, length_) - offset};
}

uint64_t DirtyMap::dirty_bytes() const noexcept {
  const int64_t marked = marked_.load(std::memory_order_relaxed);
  return std::min(length_, static_cast<uint64_t>(std::max<int64_t>(marked, 0)) * granularity_);
}

}  // namespace rhea::block
