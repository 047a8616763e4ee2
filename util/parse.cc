#include "util/parse.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace rhea {
namespace {

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// Later digits of a fraction are worth less than a byte even in exbibytes; they are checked and
/// dropped. 10^19 * 2^60 stays below 2^128.
constexpr size_t kFractionDigits = 19;

std::optional<uint64_t> parse_digits(std::string_view text, int base) noexcept {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (text.empty() || error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

std::optional<uint64_t> unit_of_suffix(char suffix) noexcept {
  constexpr std::string_view kSuffixes = "BKMGTPE";
  const char upper = is_letter(suffix) ? static_cast<char>(suffix & ~0x20) : suffix;
  const size_t power = kSuffixes.find(upper);
  if (power == kSuffixes.npos) return std::nullopt;
  return uint64_t{1} << (10 * power);
}

/// "5" of "1.5" times `unit`, exactly. `digits` is not empty and all digits.
uint64_t scale_fraction(std::string_view digits, uint64_t unit) noexcept {
  __extension__ using Wide = unsigned __int128;
  Wide numerator = 0;
  Wide denominator = 1;
  for (char c : digits.substr(0, kFractionDigits)) {
    numerator = numerator * 10 + static_cast<unsigned>(c - '0');
    denominator *= 10;
  }
  return static_cast<uint64_t>(numerator * unit / denominator);
}

bool is_hex(std::string_view text) { return text.starts_with("0x") || text.starts_with("0X"); }

}  // namespace

std::optional<uint64_t> parse_uint(std::string_view text) noexcept {
  if (is_hex(text)) return parse_digits(text.substr(2), 16);
  if (text.size() > 1 && text.front() == '0') return std::nullopt;
  return parse_digits(text, 10);
}

std::optional<uint64_t> parse_size(std::string_view text, uint64_t unit) noexcept {
  if (text.empty()) return std::nullopt;
  std::optional<uint64_t> whole;
  uint64_t fraction = 0;
  if (is_hex(text)) {
    whole = parse_uint(text);
  } else {
    if (!is_digit(text.back())) {
      const auto suffix = unit_of_suffix(text.back());
      if (!suffix) return std::nullopt;
      unit = *suffix;
      text.remove_suffix(1);
    }
    const size_t point = text.find('.');
    whole = parse_uint(text.substr(0, point));
    if (point != text.npos) {
      const std::string_view digits = text.substr(point + 1);
      if (digits.empty() || !std::ranges::all_of(digits, is_digit) || unit == 1) {
        return std::nullopt;
      }
      fraction = scale_fraction(digits, unit);
    }
  }
  uint64_t bytes = 0;
  if (!whole || __builtin_mul_overflow(*whole, unit, &bytes) ||
      __builtin_add_overflow(bytes, fraction, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

std::optional<bool> parse_bool(std::string_view text) noexcept {
  constexpr std::array<std::string_view, 4> kTrue{"on", "yes", "true", "y"};
  constexpr std::array<std::string_view, 4> kFalse{"off", "no", "false", "n"};
  if (std::ranges::find(kTrue, text) != kTrue.end()) return true;
  if (std::ranges::find(kFalse, text) != kFalse.end()) return false;
  return std::nullopt;
}

bool is_identifier(std::string_view text) noexcept {
  return !text.empty() && is_letter(text.front()) && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace rhea
