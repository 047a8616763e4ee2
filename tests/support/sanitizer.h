// Which sanitizer this is built with, and a way to make memory untouchable where there is one.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define RHEA_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RHEA_TEST_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define RHEA_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RHEA_TEST_TSAN 1
#endif
#endif

#ifdef RHEA_TEST_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace rhea::test {

#ifdef RHEA_TEST_ASAN
inline constexpr bool kAsan = true;
#else
inline constexpr bool kAsan = false;
#endif
#ifdef RHEA_TEST_TSAN
inline constexpr bool kTsan = true;
#else
inline constexpr bool kTsan = false;
#endif

inline constexpr unsigned char kPoison = 0xdd;

/// Fills dead memory with kPoison; under ASan any later access is reported as well, if `memory` and
/// `size` are multiples of 8.
inline void poison(void* memory, size_t size) {
  std::memset(memory, kPoison, size);
#ifdef RHEA_TEST_ASAN
  ASAN_POISON_MEMORY_REGION(memory, size);
#endif
}

/// Makes the memory usable again; true if nobody wrote to it since poison().
inline bool unpoison(void* memory, size_t size) {
#ifdef RHEA_TEST_ASAN
  ASAN_UNPOISON_MEMORY_REGION(memory, size);
#endif
  const auto* bytes = static_cast<const unsigned char*>(memory);
  for (size_t i = 0; i < size; ++i) {
    if (bytes[i] != kPoison) return false;
  }
  return true;
}

}  // namespace rhea::test
