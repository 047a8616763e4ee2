// Numbers and switches as people write them: checked for overflow, never half-read.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace rhea {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;

/// A whole number below 2^64, decimal or 0x-hexadecimal. All of `text` must be the number; a sign,
/// blanks, and a decimal with leading zeros are refused (half the world reads 010 as eight).
std::optional<uint64_t> parse_uint(std::string_view text) noexcept;

/// A size below 2^64 bytes: a decimal number, with a fraction if need be ("1.5G"), and a suffix
/// B K M G T P E in either case (powers of 1024); without one it counts in `unit`. A fraction of a
/// byte is cut off. Hexadecimal takes no fraction and no suffix.
/// Units: bytes; `unit` is a power of two.
std::optional<uint64_t> parse_size(std::string_view text, uint64_t unit = 1) noexcept;

/// on, yes, true, y or off, no, false, n.
std::optional<bool> parse_bool(std::string_view text) noexcept;

/// Letters, digits, '-', '.' and '_', starting with a letter: what an id may be made of.
bool is_identifier(std::string_view text) noexcept;

}  // namespace rhea
