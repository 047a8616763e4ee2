// Option lists: "pc,accel=kvm", "driver=raw,file.driver=file,file.filename=a,,b", {"driver":
// "raw"}.
//
// Both spellings give the same OptionTree. The rules of the first are those of QEMU:
//   - items are separated by ',', a literal comma is written twice; one trailing ',' is allowed;
//   - dots in a key nest ("file.driver" is member `driver` of object `file`); an object whose keys
//     are all numbers is a list, whose numbers must run from 0 without holes;
//   - the first item may lack "key=" where the option has an implied key.
// Unlike there, giving the same key twice is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.h"

namespace rhea {

/// How a scalar was written. JSON tells a text from a number from a switch, and is held to it; what
/// a value of key=value is, only its reader knows.
enum class Scalar : uint8_t { kPlain, kText, kNumber, kSwitch };

/// A string, an ordered object or a list of these.
/// Invariants: the keys of an object differ; nesting is at most kMaxOptionDepth deep if parsed.
class OptionTree {
 public:
  enum class Kind : uint8_t { kString, kObject, kList };

  /// An empty object.
  OptionTree() = default;
  static OptionTree string(std::string text, Scalar written_as = Scalar::kPlain);
  static OptionTree list();

  Kind kind() const noexcept { return kind_; }
  bool is_string() const noexcept { return kind_ == Kind::kString; }
  bool is_object() const noexcept { return kind_ == Kind::kObject; }
  /// Of a string; empty for others.
  const std::string& text() const noexcept { return text_; }
  Scalar written_as() const noexcept { return written_as_; }

  /// Of an object, in the order given; values() runs beside it.
  std::span<const std::string> keys() const noexcept { return keys_; }
  /// The members of an object, or the elements of a list.
  std::span<const OptionTree> values() const noexcept { return values_; }
  bool empty() const noexcept { return values_.empty(); }

  /// A member of an object, or null.
  const OptionTree* find(std::string_view key) const noexcept;
  OptionTree* find(std::string_view key) noexcept;
  /// Sets a member of an object: replaces the one there, or goes last.
  OptionTree& set(std::string key, OptionTree value);
  /// Removes and returns a member of an object that is known to exist.
  OptionTree take(std::string_view key);
  /// Appends to a list.
  void append(OptionTree value);
  /// Sets every member of `later`: how an option given again changes what was said before.
  void merge(OptionTree later);

 private:
  Kind kind_ = Kind::kObject;
  Scalar written_as_ = Scalar::kPlain;
  std::string text_;
  std::vector<std::string> keys_;
  std::vector<OptionTree> values_;
};

/// What an item without '=' means, other than the first under an implied key.
enum class BareWords : uint8_t {
  kRefused,
  kBoolean,  ///< "server,nowait" is "server=on,wait=off"
};

struct OptionSyntax {
  std::string_view implied_key{};
  BareWords bare_words = BareWords::kRefused;
};

inline constexpr size_t kMaxOptionBytes = size_t{1} << 20;
inline constexpr size_t kMaxOptionItems = 1024;
inline constexpr size_t kMaxOptionDepth = 32;

/// Parses an option list, or JSON if `text` starts with '{'. The result is an object.
/// Errors: kInvalidArgument, with QEMU's text where it has one.
Result<OptionTree> parse_options(std::string_view text, const OptionSyntax& syntax = {});

/// The key=value form alone: a value that starts with '{' is just a value.
Result<OptionTree> parse_keyval(std::string_view text, const OptionSyntax& syntax = {});

/// A JSON object. Booleans become "on" and "off" and whole numbers their digits, marked as what
/// they were; null, fractions, repeated keys and strings with a zero byte are refused.
Result<OptionTree> parse_json_options(std::string_view text);

}  // namespace rhea
