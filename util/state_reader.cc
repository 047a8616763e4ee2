#include "util/state_reader.h"

#include <fmt/format.h>

#include <algorithm>

namespace rhea {
namespace {

uint64_t load(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t index = bytes.size(); index-- > 0;) value = value << 8 | bytes[index];
  return value;
}

/// A name out of foreign bytes, fit for a message.
std::string printable(std::span<const uint8_t> name) {
  std::string text;
  for (const uint8_t byte : name.first(std::min(name.size(), kMaxStateName))) {
    text += byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '?';
  }
  return text;
}

constexpr size_t kLengthSize = sizeof(uint32_t);
constexpr std::string_view kTruncated = "the data ends in it";

}  // namespace

StateReader::StateReader(std::string_view name, std::span<const uint8_t> bytes)
    : name_(name), rest_(bytes) {
  if (bytes.size() > kMaxStateBytes) {
    refuse({}, fmt::format("{} bytes, at most {}", bytes.size(), kMaxStateBytes));
  }
}

std::string StateReader::path_to(std::string_view step) const {
  const bool dot = !path_.empty() && !step.empty() && !step.starts_with('[');
  return fmt::format("{}{}{}", path_, dot ? "." : "", step);
}

std::nullopt_t StateReader::refuse(std::string_view step, std::string_view what) {
  if (error_) return std::nullopt;
  const std::string path = path_to(step);
  error_ = path.empty() ? fail(ErrorKind::kCorrupt, "{}: {}", name_, what)
                        : fail(ErrorKind::kCorrupt, "{}: field '{}': {}", name_, path, what);
  return std::nullopt;
}

bool StateReader::take_header(std::string_view name, StateType type) {
  if (error_) return false;
  if (rest_.empty()) return refuse(name, "missing"), false;
  const size_t name_size = rest_[0];
  if (rest_.size() < 1 + name_size + 1) return refuse(name, kTruncated), false;
  const std::span<const uint8_t> found = rest_.subspan(1, name_size);
  if (!std::ranges::equal(found, name)) {
    return refuse(name, fmt::format("found '{}' in its place", printable(found))), false;
  }
  const uint8_t found_type = rest_[1 + name_size];
  if (found_type != static_cast<uint8_t>(type)) {
    const std::string_view text = to_string(static_cast<StateType>(found_type));
    return refuse(name, fmt::format("type {}, expected {}", text, to_string(type))), false;
  }
  rest_ = rest_.subspan(1 + name_size + 1);
  return true;
}

std::optional<std::span<const uint8_t>> StateReader::payload(std::string_view name,
                                                             StateType type) {
  if (!take_header(name, type)) return std::nullopt;
  size_t size = size_of_number(type);
  if (size == 0) {
    if (rest_.size() < kLengthSize) return refuse(name, kTruncated);
    size = load(rest_.first(kLengthSize));
    rest_ = rest_.subspan(kLengthSize);
  }
  if (rest_.size() < size) return refuse(name, kTruncated);
  const std::span<const uint8_t> inside = rest_.first(size);
  rest_ = rest_.subspan(size);
  return inside;
}

std::optional<uint64_t> StateReader::number(std::string_view name, StateType type) {
  const auto inside = payload(name, type);
  if (!inside) return std::nullopt;
  const uint64_t value = load(*inside);
  if (type == StateType::kBool && value > 1) {
    return refuse(name, fmt::format("{} is neither true nor false", value));
  }
  return value;
}

std::optional<std::span<const uint8_t>> StateReader::bytes(std::string_view name, StateType type,
                                                           size_t min, size_t max) {
  const auto inside = payload(name, type);
  if (!inside) return std::nullopt;
  if (inside->size() < min || inside->size() > max) {
    const std::string_view at_most = min < max ? "at most " : "";
    return refuse(name, fmt::format("{} bytes, expected {}{}", inside->size(), at_most, max));
  }
  return inside;
}

void StateReader::fill(std::string_view name, std::span<uint8_t> value) {
  if (const auto inside = bytes(name, StateType::kBytes, value.size(), value.size())) {
    std::ranges::copy(*inside, value.begin());
  }
}

void StateReader::field(std::string_view name, std::vector<uint8_t>& value, size_t max) {
  if (const auto inside = bytes(name, StateType::kBytes, 0, max)) {
    value.assign(inside->begin(), inside->end());
  }
}

void StateReader::field(std::string_view name, std::string& value, size_t max) {
  if (const auto inside = bytes(name, StateType::kString, 0, max)) {
    value.assign(inside->begin(), inside->end());
  }
}

std::optional<StateReader::Outer> StateReader::enter(std::string_view step,
                                                     std::span<const uint8_t> inside) {
  if (depth_ == kMaxStateDepth) return refuse(step, "nested too deeply");
  ++depth_;
  const Outer outer{rest_, path_.size()};
  path_ = path_to(step);
  rest_ = inside;
  return outer;
}

void StateReader::close(const Outer& outer) {
  if (error_) return;
  if (!rest_.empty()) {
    refuse({}, fmt::format("{} bytes are left over", rest_.size()));
    return;
  }
  --depth_;
  rest_ = outer.rest;
  path_.resize(outer.path_size);
}

std::optional<StateReader::Outer> StateReader::open(std::string_view name) {
  const auto inside = payload(name, StateType::kStruct);
  if (!inside) return std::nullopt;
  return enter(name, *inside);
}

std::optional<StateReader::List> StateReader::open_list(std::string_view name, size_t min,
                                                        size_t max) {
  const auto inside = payload(name, StateType::kList);
  if (!inside) return std::nullopt;
  if (inside->size() < kLengthSize) return refuse(name, kTruncated);
  const size_t count = load(inside->first(kLengthSize));
  if (count < min || count > max) {
    const std::string_view at_most = min < max ? "at most " : "";
    return refuse(name, fmt::format("{} elements, expected {}{}", count, at_most, max));
  }
  const std::optional<Outer> outer = enter(name, inside->subspan(kLengthSize));
  if (!outer) return std::nullopt;
  return List{*outer, count};
}

std::optional<StateReader::Outer> StateReader::open_element(size_t index) {
  if (error_) return std::nullopt;
  const std::string step = fmt::format("[{}]", index);
  if (rest_.size() < kLengthSize) return refuse(step, kTruncated);
  const size_t size = load(rest_.first(kLengthSize));
  rest_ = rest_.subspan(kLengthSize);
  if (rest_.size() < size) return refuse(step, kTruncated);
  const std::span<const uint8_t> inside = rest_.first(size);
  rest_ = rest_.subspan(size);
  return enter(step, inside);
}

Result<void> StateReader::finish() {
  if (!error_ && !rest_.empty()) {
    refuse({}, fmt::format("{} bytes are left over", rest_.size()));
  }
  if (error_) return *error_;
  return ok();
}

}  // namespace rhea
