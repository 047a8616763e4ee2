#include "util/lock_rank.h"

#include <bit>

#include "util/check.h"
#include "util/internal/thread_state.h"

namespace rhea {
namespace {

thread_local internal::ThreadState t_state;

constexpr uint32_t kBqlBit = 1U << static_cast<unsigned>(LockRank::kBql);

}  // namespace

namespace internal {

ThreadState& thread_state() noexcept { return t_state; }

void note_lock_acquire(LockRank rank) noexcept {
  const auto index = static_cast<unsigned>(rank);
  const uint32_t at_or_above = t_state.held_locks >> index;
  RHEA_CHECK(at_or_above == 0, "lock of rank {} taken while one of rank {} is held", index,
             index + static_cast<unsigned>(std::countr_zero(at_or_above)));
  t_state.held_locks |= 1U << index;
}

void note_lock_release(LockRank rank) noexcept {
  const uint32_t bit = 1U << static_cast<unsigned>(rank);
  RHEA_CHECK((t_state.held_locks & bit) != 0, "lock of rank {} released but not held",
             static_cast<unsigned>(rank));
  t_state.held_locks &= ~bit;
}

}  // namespace internal

unsigned held_locks_below_bql() noexcept {
  return static_cast<unsigned>(std::popcount(t_state.held_locks & ~kBqlBit));
}

}  // namespace rhea
