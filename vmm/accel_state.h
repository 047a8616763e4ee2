// What an accelerator saves, and the two steps in which it is loaded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/bql.h"
#include "util/error.h"
#include "util/saved_state.h"

namespace rhea::vmm {

/// A named piece of state, encoded (util/saved_state.h).
struct StateSection {
  std::string name;
  std::vector<uint8_t> bytes;
  static constexpr size_t kMaxBytes = 15 << 20;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("name", s.name, 63);
    v.field("bytes", s.bytes, kMaxBytes);
  }
};

/// Decoded and found possible; nothing has changed yet. Lives no longer than whom it came from.
class PreparedState {
 public:
  virtual ~PreparedState() = default;
  /// Errors: the host refuses; the message names what. The accelerator is then fit for a reset
  /// only.
  virtual Result<void> apply() REQUIRES(bql) = 0;
};

/// Sections as they came, taken by name.
/// Errors: kCorrupt: a name that is missing, is there twice, or that nobody took.
class SectionReader {
 public:
  explicit SectionReader(std::span<const StateSection> sections)
      : sections_(sections.begin(), sections.end()) {}

  template <class T>
  Result<T> take(std::string_view name) {
    const auto is_it = [name](const StateSection& section) { return section.name == name; };
    const auto found = std::ranges::find_if(sections_, is_it);
    if (found == sections_.end()) {
      return fail(ErrorKind::kCorrupt, "the state of '{}' is missing", name);
    }
    const StateSection section = std::move(*found);
    sections_.erase(found);
    return decode_state<T>(name, section.bytes);
  }
  /// All must have been taken.
  Result<void> finish() const {
    if (sections_.empty()) return ok();
    return fail(ErrorKind::kCorrupt, "a state of '{}' too many", sections_.front().name);
  }

 private:
  std::vector<StateSection> sections_;
};

template <class T>
StateSection make_section(std::string name, const T& state) {
  return {.name = std::move(name), .bytes = encode_state(state)};
}

}  // namespace rhea::vmm
