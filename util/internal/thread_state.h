// What each thread knows of itself: locks held, read sections open, the coroutine it runs.
#pragma once

#include <cstdint>

namespace rhea {

class Coroutine;

namespace internal {

struct ThreadState {
  uint32_t held_locks = 0;  ///< bit r: a lock of rank r
  uint32_t rcu_depth = 0;   ///< nested read sections
  Coroutine* current = nullptr;
};

/// Out of line on purpose: a coroutine may come back on another thread, and a compiler may keep the
/// address of a thread-local across what looks to it like a plain call. Fetch it again after a
/// switch.
ThreadState& thread_state() noexcept;

}  // namespace internal
}  // namespace rhea
