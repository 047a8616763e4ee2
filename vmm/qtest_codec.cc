#include "vmm/qtest_codec.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace rhea::vmm {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kBase64Digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoDigit = 0xff;

constexpr std::array<uint8_t, 256> values_of(std::string_view digits) {
  std::array<uint8_t, 256> values{};
  values.fill(kNoDigit);
  for (size_t i = 0; i < digits.size(); ++i) {
    values[static_cast<uint8_t>(digits[i])] = static_cast<uint8_t>(i);
  }
  return values;
}
constexpr auto kBase64Values = values_of(kBase64Digits);

std::optional<uint8_t> nibble(char c) {
  const auto digit = kHexDigits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c);
  if (digit == std::string_view::npos) return std::nullopt;
  return static_cast<uint8_t>(digit);
}

/// Decodes one group of four; the number of bytes it holds, 0 if it is malformed.
size_t decode_group(std::string_view group, std::array<std::byte, 3>& out) {
  const size_t digits = group.ends_with("==") ? 2 : group.ends_with('=') ? 3 : 4;
  uint32_t bits = 0;
  for (size_t i = 0; i < 4; ++i) {
    const uint8_t value = i < digits ? kBase64Values[static_cast<uint8_t>(group[i])] : uint8_t{0};
    if (value == kNoDigit) return 0;
    bits = bits << 6 | value;
  }
  const size_t bytes = digits - 1;
  if ((bits & ((1U << (8 * (3 - bytes))) - 1)) != 0) return 0;  // bits that no byte has
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(bits >> (16 - 8 * i) & 0xff);
  return bytes;
}

}  // namespace

std::optional<uint64_t> parse_number(std::string_view word) noexcept {
  const bool negative = word.starts_with('-');
  if (negative) word.remove_prefix(1);
  int base = 10;
  if (word.starts_with("0x") || word.starts_with("0X")) {
    base = 16;
    word.remove_prefix(2);
  } else if (word.size() > 1 && word.starts_with('0')) {
    base = 8;
    word.remove_prefix(1);
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.begin(), word.end(), value, base);
  if (error != std::errc() || end != word.end()) return std::nullopt;
  return negative ? 0 - value : value;
}

std::string to_hex(std::span<const std::byte> data) {
  std::string text = "0x";
  text.reserve(2 + 2 * data.size());
  for (const std::byte b : data) {
    const auto value = std::to_integer<uint8_t>(b);
    text += kHexDigits[value >> 4];
    text += kHexDigits[value & 0xf];
  }
  return text;
}

std::optional<std::vector<std::byte>> from_hex(std::string_view text) {
  if (!text.starts_with("0x") || text.size() % 2 != 0) return std::nullopt;
  std::vector<std::byte> data;
  data.reserve(text.size() / 2 - 1);
  for (size_t i = 2; i < text.size(); i += 2) {
    const auto high = nibble(text[i]);
    const auto low = nibble(text[i + 1]);
    if (!high || !low) return std::nullopt;
    data.push_back(static_cast<std::byte>(*high << 4 | *low));
  }
  return data;
}

std::string to_base64(std::span<const std::byte> data) {
  std::string text;
  text.reserve((data.size() + 2) / 3 * 4);
  for (size_t i = 0; i < data.size(); i += 3) {
    const size_t n = std::min<size_t>(3, data.size() - i);
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (k < n ? std::to_integer<uint32_t>(data[i + k]) : 0);
    }
    for (size_t k = 0; k < 4; ++k) {
      text += k <= n ? kBase64Digits[bits >> (18 - 6 * k) & 0x3f] : '=';
    }
  }
  return text;
}

std::optional<std::vector<std::byte>> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::vector<std::byte> data;
  data.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    std::array<std::byte, 3> group{};
    const size_t bytes = decode_group(text.substr(i, 4), group);
    const bool last = i + 4 == text.size();
    if (bytes == 0 || (bytes < 3 && !last)) return std::nullopt;
    data.insert(data.end(), group.begin(), group.begin() + static_cast<std::ptrdiff_t>(bytes));
  }
  return data;
}

}  // namespace rhea::vmm
