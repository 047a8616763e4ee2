#include "util/option_reader.h"

#include <algorithm>

#include "util/parse.h"

namespace rhea {

OptionReader::OptionReader(OptionTree options, std::string prefix)
    : options_(std::move(options)), prefix_(std::move(prefix)) {
  RHEA_CHECK(options_.is_object());
}

Error OptionReader::missing(std::string_view key) const {
  return fail(ErrorKind::kInvalidArgument, "Parameter '{}' is missing", full(key));
}

Result<std::optional<std::string>> OptionReader::take_typed(std::string_view key, Scalar type,
                                                            std::string_view expected) {
  if (!has(key)) return std::optional<std::string>();
  const OptionTree value = options_.take(key);
  const bool fits = value.written_as() == Scalar::kPlain || value.written_as() == type;
  if (!value.is_string() || !fits) {
    return fail(ErrorKind::kInvalidArgument, "Invalid parameter type for '{}', expected: {}",
                full(key), expected);
  }
  return std::optional(value.text());
}

Result<std::optional<std::string>> OptionReader::take_string(std::string_view key) {
  return take_typed(key, Scalar::kText, "string");
}

Result<std::string> OptionReader::take_required(std::string_view key) {
  auto value = TRY(take_string(key));
  if (!value) return missing(key);
  return *std::move(value);
}

Result<std::string> OptionReader::take_required_identifier(std::string_view key) {
  auto value = TRY(take_identifier(key));
  if (!value) return missing(key);
  return *std::move(value);
}

Result<std::optional<std::string>> OptionReader::take_identifier(std::string_view key) {
  auto value = TRY(take_string(key));
  if (value && !is_identifier(*value)) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter '{}' expects an identifier (letters, digits, '-', '.', '_', starting "
                "with a letter)",
                full(key));
  }
  return value;
}

Result<std::optional<bool>> OptionReader::take_bool(std::string_view key) {
  const auto text = TRY(take_typed(key, Scalar::kSwitch, "boolean"));
  if (!text) return std::optional<bool>();
  const auto value = parse_bool(*text);
  if (!value) {
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' expects 'on' or 'off'", full(key));
  }
  return value;
}

Result<std::optional<uint64_t>> OptionReader::take_uint(std::string_view key, uint64_t min,
                                                        uint64_t max) {
  const auto text = TRY(take_typed(key, Scalar::kNumber, "integer"));
  if (!text) return std::optional<uint64_t>();
  const auto value = parse_uint(*text);
  if (!value) {
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' expects integer, not '{}'", full(key),
                *text);
  }
  if (*value < min || *value > max) {
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' expects a value between {} and {}",
                full(key), min, max);
  }
  return value;
}

Result<std::optional<uint64_t>> OptionReader::take_size(std::string_view key, uint64_t unit) {
  const auto text = TRY(take_typed(key, Scalar::kNumber, "integer"));
  if (!text) return std::optional<uint64_t>();
  const auto value = parse_size(*text, unit);
  if (!value) {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter '{}' expects a non-negative number below 2^64 (optional suffix k, M, "
                "G, T, P or E)",
                full(key));
  }
  return value;
}

Result<std::optional<size_t>> OptionReader::take_choice(std::string_view key,
                                                        std::span<const std::string_view> choices) {
  const auto text = TRY(take_string(key));
  if (!text) return std::optional<size_t>();
  const auto at = std::ranges::find(choices, *text);
  if (at == choices.end()) {
    return fail(ErrorKind::kInvalidArgument, "Parameter '{}' does not accept value '{}'", full(key),
                *text);
  }
  return std::optional(static_cast<size_t>(at - choices.begin()));
}

Result<std::optional<OptionReader>> OptionReader::take_object(std::string_view key) {
  if (!has(key)) return std::optional<OptionReader>();
  OptionTree value = options_.take(key);
  if (!value.is_object()) {
    return fail(ErrorKind::kInvalidArgument, "Invalid parameter type for '{}', expected: object",
                full(key));
  }
  return std::optional(OptionReader(std::move(value), full(key) + "."));
}

Result<std::vector<OptionReader>> OptionReader::take_objects(std::string_view key) {
  std::vector<OptionReader> objects;
  if (!has(key)) return objects;
  OptionTree list = options_.take(key);
  if (list.kind() != OptionTree::Kind::kList) {
    return fail(ErrorKind::kInvalidArgument, "Invalid parameter type for '{}', expected: array",
                full(key));
  }
  for (const OptionTree& value : list.values()) {
    const std::string name = fmt::format("{}.{}", full(key), objects.size());
    if (!value.is_object()) {
      return fail(ErrorKind::kInvalidArgument, "Invalid parameter type for '{}', expected: object",
                  name);
    }
    objects.emplace_back(value, name + ".");
  }
  return objects;
}

Result<std::optional<std::vector<uint64_t>>> OptionReader::take_uints(std::string_view key) {
  using Numbers = std::vector<uint64_t>;
  if (!has(key)) return std::optional<Numbers>();
  const OptionTree list = options_.take(key);
  if (list.kind() != OptionTree::Kind::kList) {
    return fail(ErrorKind::kInvalidArgument, "Invalid parameter type for '{}', expected: array",
                full(key));
  }
  Numbers numbers;
  for (const OptionTree& value : list.values()) {
    const auto number = value.is_string() ? parse_uint(value.text()) : std::nullopt;
    if (!number || value.written_as() == Scalar::kText || value.written_as() == Scalar::kSwitch) {
      return fail(ErrorKind::kInvalidArgument,
                  "Invalid parameter type for '{}.{}', expected: integer", full(key),
                  numbers.size());
    }
    numbers.push_back(*number);
  }
  return std::optional(std::move(numbers));
}

std::optional<std::string> OptionReader::first_unused() const {
  if (options_.empty()) return std::nullopt;
  std::string name = full(options_.keys().front());
  // The whole dotted key is what the user typed.
  for (const OptionTree* node = &options_.values().front(); node->is_object() && !node->empty();
       node = &node->values().front()) {
    name += "." + node->keys().front();
  }
  return name;
}

Result<void> OptionReader::finish() const {
  if (const auto unused = first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Invalid parameter '{}'", *unused);
  }
  return ok();
}

}  // namespace rhea
