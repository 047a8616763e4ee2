// The numbers and byte strings of the qtest protocol.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rhea::vmm {

/// A whole word as a number in the notation of C: 0x hexadecimal, leading 0 octal, else decimal.
/// A minus sign negates modulo 2^64, as strtoull does. Errors: empty if it is anything else or does
/// not fit.
std::optional<uint64_t> parse_number(std::string_view word) noexcept;

/// Two digits a byte, behind "0x".
std::string to_hex(std::span<const std::byte> data);
/// The inverse. Errors: empty without "0x", with an odd number of digits or another character.
std::optional<std::vector<std::byte>> from_hex(std::string_view text);

/// [RFC4648 4], with padding.
std::string to_base64(std::span<const std::byte> data);
/// The inverse. Errors: empty for what is no canonical base64.
std::optional<std::vector<std::byte>> from_base64(std::string_view text);

}  // namespace rhea::vmm
