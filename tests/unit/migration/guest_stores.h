// Stores and loads as a guest makes them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/dirty_bitmap.h"

#if defined(__clang__)
#define RHEA_LIKE_A_GUEST __attribute__((no_sanitize("thread"), noinline))
#else
#define RHEA_LIKE_A_GUEST __attribute__((no_sanitize_thread, noinline))
#endif

namespace rhea::migration::test {

/// A guest, or a device, stores while its pages are sent: no sanitizer sees that, and no lock
/// orders it.
RHEA_LIKE_A_GUEST inline void stamp(std::byte* page, uint64_t version) {
  auto* words = reinterpret_cast<volatile uint64_t*>(page);
  words[0] = version;
  words[memory::kDirtyPageBytes / sizeof(uint64_t) - 1] = version;
}
RHEA_LIKE_A_GUEST inline uint64_t version_of(const std::byte* page) {
  return *reinterpret_cast<const volatile uint64_t*>(page);
}

}  // namespace rhea::migration::test
