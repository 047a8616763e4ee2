// Le<T>: integers as they lie in little-endian wire and guest formats.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>

namespace rhea {

/// A little-endian integer with the size of T and no alignment, so that a struct of these has the
/// layout of the format it describes, without padding. Any bit pattern is a value.
template <std::unsigned_integral T>
class Le {
 public:
  constexpr Le() = default;
  constexpr Le(T value) noexcept : bytes_(split(value)) {}

  constexpr T value() const noexcept {
    const T raw = std::bit_cast<T>(bytes_);
    return std::endian::native == std::endian::little ? raw : std::byteswap(raw);
  }
  constexpr operator T() const noexcept { return value(); }

 private:
  static constexpr std::array<uint8_t, sizeof(T)> split(T value) noexcept {
    if constexpr (std::endian::native == std::endian::big) value = std::byteswap(value);
    return std::bit_cast<std::array<uint8_t, sizeof(T)>>(value);
  }
  std::array<uint8_t, sizeof(T)> bytes_{};
};

using le16 = Le<uint16_t>;
using le32 = Le<uint32_t>;
using le64 = Le<uint64_t>;
static_assert(sizeof(le16) == 2 && sizeof(le32) == 4 && sizeof(le64) == 8 && alignof(le64) == 1);

}  // namespace rhea
