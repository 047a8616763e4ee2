// OptionReader: takes typed values out of an OptionTree, and finds what nobody took.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/options.h"

namespace rhea {

/// Consumes an option object member by member. Each take_ removes its key; finish() then knows
/// which keys the option does not have. What JSON wrote as a text is no number and no switch, and
/// the other way round.
/// Errors: kInvalidArgument, naming the parameter in full ("smp.cpus" with the prefix "smp.").
class OptionReader {
 public:
  explicit OptionReader(OptionTree options, std::string prefix = {});

  Result<std::optional<std::string>> take_string(std::string_view key);
  Result<std::string> take_required(std::string_view key);
  /// A name by which others refer to this object.
  Result<std::optional<std::string>> take_identifier(std::string_view key);
  Result<std::string> take_required_identifier(std::string_view key);
  Result<std::optional<bool>> take_bool(std::string_view key);
  Result<std::optional<uint64_t>> take_uint(std::string_view key, uint64_t min = 0,
                                            uint64_t max = std::numeric_limits<uint64_t>::max());
  /// Units: bytes; a number without a suffix counts in `unit`.
  Result<std::optional<uint64_t>> take_size(std::string_view key, uint64_t unit = 1);
  /// One of `choices`; the index of it.
  Result<std::optional<size_t>> take_choice(std::string_view key,
                                            std::span<const std::string_view> choices);
  Result<std::optional<OptionReader>> take_object(std::string_view key);
  /// The objects of a list; none if it is not given.
  Result<std::vector<OptionReader>> take_objects(std::string_view key);
  /// The numbers of a list.
  Result<std::optional<std::vector<uint64_t>>> take_uints(std::string_view key);
  /// All that was not taken: what is for somebody else.
  OptionTree take_rest() { return std::exchange(options_, {}); }

  bool has(std::string_view key) const noexcept { return options_.find(key) != nullptr; }
  /// Whether it is there and is no object or list.
  bool is_string(std::string_view key) const noexcept {
    const OptionTree* option = options_.find(key);
    return option != nullptr && option->is_string();
  }
  /// The first key that was not taken, in full.
  std::optional<std::string> first_unused() const;
  /// Fails with "Invalid parameter 'x'" if a key was not taken.
  Result<void> finish() const;

 private:
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  Error missing(std::string_view key) const;
  Result<std::optional<std::string>> take_typed(std::string_view key, Scalar type,
                                                std::string_view expected);

  OptionTree options_;
  std::string prefix_;
};

}  // namespace rhea
