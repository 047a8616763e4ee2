// The order in which locks are taken, checked at run time in every build.
#pragma once

#include <cstdint>

namespace rhea {

/// Ascending acquire order. A thread may take a lock only if its rank is above every rank it
/// holds, so no two locks of one rank nest either.
///
/// An RCU read section may contain a BQL acquisition (a vCPU's MMIO exit does), so waiting for a
/// grace period ranks below all of these: it is legal with none of them held.
enum class LockRank : uint8_t {
  kBql = 1,      ///< the big lock: devices, machine, run state
  kGraphWrite,   ///< the block graph's write side
  kMemslots,     ///< memory listeners' own state: KVM slots, dirty-log clearing
  kDeviceQueue,  ///< one device's queues
  kLeaf,         ///< held for a few instructions; nothing is taken under it
};

namespace internal {

// Out of line on purpose: a coroutine may resume on another thread, and a compiler may keep the
// address of a thread-local across an inlined call.
void note_lock_acquire(LockRank rank) noexcept;
void note_lock_release(LockRank rank) noexcept;

}  // namespace internal

/// Locks other than the BQL that this thread holds. A coroutine may yield only at zero.
unsigned held_locks_below_bql() noexcept;

}  // namespace rhea
