#include "util/lock_rank.h"

#include <array>
#include <cstddef>

#include "util/check.h"

namespace rhea {
namespace {

constexpr size_t kRanks = static_cast<size_t>(LockRank::kLeaf) + 1;

// held[r] is 1 while this thread holds a lock of rank r.
thread_local std::array<uint8_t, kRanks> t_held{};

}  // namespace

namespace internal {

void note_lock_acquire(LockRank rank) noexcept {
  const auto index = static_cast<size_t>(rank);
  for (size_t r = index; r < kRanks; ++r) {
    RHEA_CHECK(t_held[r] == 0, "lock of rank {} taken while one of rank {} is held", index, r);
  }
  t_held[index] = 1;
}

void note_lock_release(LockRank rank) noexcept {
  const auto index = static_cast<size_t>(rank);
  RHEA_CHECK(t_held[index] == 1, "lock of rank {} released but not held", index);
  t_held[index] = 0;
}

}  // namespace internal

unsigned held_locks_below_bql() noexcept {
  unsigned held = 0;
  for (size_t r = static_cast<size_t>(LockRank::kBql) + 1; r < kRanks; ++r) held += t_held[r];
  return held;
}

}  // namespace rhea
