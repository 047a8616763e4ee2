// CRC32C: the checksum of what crosses a process boundary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace rhea {

/// The CRC of `before`'s data with `data` behind it, so that a buffer may be summed in pieces:
/// crc32c(b, crc32c(a)) is that of a followed by b. The CRC of nothing is 0.
/// Castagnoli's polynomial, bits reflected, as in iSCSI and ext4. [RFC 3720 12.1]
uint32_t crc32c(std::span<const std::byte> data, uint32_t before = 0) noexcept;

inline uint32_t crc32c(std::string_view text, uint32_t before = 0) noexcept {
  return crc32c(std::as_bytes(std::span(text)), before);
}

namespace internal {

/// The two ways in which crc32c() may go, for tests: they must agree.
uint32_t crc32c_by_table(std::span<const std::byte> data, uint32_t before) noexcept;
/// Only where crc32c_has_instruction().
uint32_t crc32c_by_instruction(std::span<const std::byte> data, uint32_t before) noexcept;
bool crc32c_has_instruction() noexcept;

}  // namespace internal
}  // namespace rhea
