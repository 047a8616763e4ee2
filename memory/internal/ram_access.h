// Copies to and from guest RAM, which the guest's vCPUs read and write at the same time.
//
// An aligned access of 1, 2, 4 or 8 bytes is one access of that width: a guest that polls a word
// never sees half of it. Longer or unaligned copies promise nothing between their bytes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_THREAD__)
#define RHEA_RAM_BYTEWISE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RHEA_RAM_BYTEWISE 1
#endif
#endif

namespace rhea::memory::internal {

static_assert(std::endian::native == std::endian::little, "guest and host are both x86");

// A word has the order that the guest's own instruction would have [SDM vol. 3, 9.2.2]: a store
// that we do for a vCPU, or for a qtest client, comes behind its earlier ones for whoever reads the
// word with acquire, as a device does with a ring's index. On x86 that costs nothing. All else that
// orders accesses to guest RAM, which is raced for by design, stands at the callers.
template <class T>
void load_word(std::byte* to, const std::byte* from) noexcept {
  const T value = __atomic_load_n(reinterpret_cast<const T*>(from), __ATOMIC_ACQUIRE);
  std::memcpy(to, &value, sizeof value);
}

template <class T>
void store_word(std::byte* to, const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  __atomic_store_n(reinterpret_cast<T*>(to), value, __ATOMIC_RELEASE);
}

inline bool is_word(const std::byte* ram, size_t size) noexcept {
  return size <= 8 && std::has_single_bit(size) && reinterpret_cast<uintptr_t>(ram) % size == 0;
}

inline void copy_bulk(std::byte* to, const std::byte* from, size_t size, bool to_ram) noexcept {
#ifdef RHEA_RAM_BYTEWISE
  // TSan takes memcpy for a plain access and would report every race with the guest.
  for (size_t i = 0; i < size; ++i) {
    if (to_ram) {
      store_word<uint8_t>(to + i, from + i);
    } else {
      load_word<uint8_t>(to + i, from + i);
    }
  }
#else
  static_cast<void>(to_ram);
  std::memcpy(to, from, size);
#endif
}

inline void copy_from_ram(std::byte* to, const std::byte* ram, size_t size) noexcept {
  if (!is_word(ram, size)) return copy_bulk(to, ram, size, false);
  if (size == 4) return load_word<uint32_t>(to, ram);
  if (size == 8) return load_word<uint64_t>(to, ram);
  if (size == 2) return load_word<uint16_t>(to, ram);
  load_word<uint8_t>(to, ram);
}

inline void copy_to_ram(std::byte* ram, const std::byte* from, size_t size) noexcept {
  if (!is_word(ram, size)) return copy_bulk(ram, from, size, true);
  if (size == 4) return store_word<uint32_t>(ram, from);
  if (size == 8) return store_word<uint64_t>(ram, from);
  if (size == 2) return store_word<uint16_t>(ram, from);
  store_word<uint8_t>(ram, from);
}

}  // namespace rhea::memory::internal
