#include "util/lock_rank.h"

#include <bit>

#include "util/check.h"

namespace rhea {
namespace {

// Bit r is set while this thread holds a lock of rank r.
thread_local uint32_t t_held = 0;

constexpr uint32_t kBqlBit = 1U << static_cast<unsigned>(LockRank::kBql);

}  // namespace

namespace internal {

void note_lock_acquire(LockRank rank) noexcept {
  const auto index = static_cast<unsigned>(rank);
  const uint32_t at_or_above = t_held >> index;
  RHEA_CHECK(at_or_above == 0, "lock of rank {} taken while one of rank {} is held", index,
             index + static_cast<unsigned>(std::countr_zero(at_or_above)));
  t_held |= 1U << index;
}

void note_lock_release(LockRank rank) noexcept {
  const uint32_t bit = 1U << static_cast<unsigned>(rank);
  RHEA_CHECK((t_held & bit) != 0, "lock of rank {} released but not held",
             static_cast<unsigned>(rank));
  t_held &= ~bit;
}

}  // namespace internal

unsigned held_locks_below_bql() noexcept {
  return static_cast<unsigned>(std::popcount(t_held & ~kBqlBit));
}

}  // namespace rhea
