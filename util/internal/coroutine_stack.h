// Pooled coroutine stacks with guard pages, and what the sanitizers need to know of them.
#pragma once

#include <cstddef>

#include "util/error.h"
#include "util/internal/sanitizer.h"

namespace rhea::internal {

/// Virtual size of a stack without its guard page. Only what is touched becomes resident.
inline constexpr size_t kStackBytes = size_t{256} * 1024;
/// A guard page makes two kernel mappings of each stack, and a process may have 65530 of them.
/// A TSan fiber makes a dozen more.
#ifdef RHEA_TSAN
inline constexpr size_t kMaxStacks = 2048;
#else
inline constexpr size_t kMaxStacks = 16384;
#endif
/// Stacks that a thread keeps for itself before it gives them to the others.
inline constexpr size_t kStacksPerThread = 64;

/// One stack; lives as long as the pool.
struct CoroutineStack {
  std::byte* base = nullptr;   ///< lowest usable byte; the guard page lies below
  void* tsan_fiber = nullptr;  ///< 8 us to create, so it stays with the stack
  CoroutineStack* next = nullptr;

  std::byte* top() const noexcept { return base + kStackBytes; }
};

/// Takes a stack: from this thread's pool, the common pool, or the host.
/// Errors: kResource when kMaxStacks are in use or the host has no memory.
Result<CoroutineStack*> take_stack();
/// Gives a stack back. Any thread, not necessarily the one that took it.
void give_stack(CoroutineStack* stack) noexcept;
/// Stacks in existence, pooled ones included.
size_t stacks_made() noexcept;

}  // namespace rhea::internal
