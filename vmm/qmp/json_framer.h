// JsonFramer: finds JSON values in a byte stream that a stranger writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

namespace rhea::vmm {

/// Cuts a byte stream into JSON values, wherever the pieces it is fed happen to end. Several values
/// may share a line and one may span many. It follows the grammar as it reads, so a mistake is
/// known at the byte that makes it, and memory is spent only on a value that may still be good.
///
/// After a mistake the rest of the broken value is skipped: to where its brackets balance or, if
/// they never do, to a line that begins with `{`. Because such a line is looked for only once the
/// value is known to be bad, correct JSON may be laid out in any way; and because a value that was
/// left open violates the grammar at the latest with the second command after it, it can not
/// swallow what follows. A control character, 0xFE or 0xFF forgets everything read so far: with it
/// a client that lost its place makes a fresh start.
///
/// Accepts strings in single quotes too, as QEMU does; what comes out is standard JSON.
///
/// Thread: one at a time. Errors: reported as frames; there is no input it stops at.
/// Units: bytes.
class JsonFramer {
 public:
  struct Limits {
    size_t bytes = size_t{1} << 20;
    size_t tokens = size_t{1} << 16;  ///< bounds what a parsed value can weigh
    size_t depth = 1024;
  };
  /// The text of one complete value, or what was wrong with it.
  using Frame = std::expected<std::string, std::string>;

  JsonFramer() = default;
  explicit JsonFramer(Limits limits) : limits_(limits) {}

  /// Consumes `data` up to the first complete value or mistake, which it puts into `frame`; all of
  /// `data` if there is neither. Returns how many bytes it consumed, which may be 0 when a frame
  /// ended just before `data`.
  size_t feed(std::string_view data, std::optional<Frame>& frame);
  void reset();

  /// Bytes held for a value that is not complete yet.
  size_t held_bytes() const noexcept { return text_.size() + open_.size(); }

 private:
  enum class Lex : uint8_t { kBetween, kString, kEscape, kHexDigits, kNumber, kKeyword };
  enum class Expect : uint8_t { kValue, kValueOrEnd, kKey, kKeyOrEnd, kColon, kCommaOrEnd };
  enum class Taken : uint8_t { kYes, kNo };  // whether a byte was used up

  Taken step(char c);
  Taken between(char c);
  Taken in_string(char c);
  Taken in_escape(char c);
  Taken in_number(char c);
  Taken in_keyword(char c);
  Taken skip(char c);
  Taken open_container(char c);
  Taken close_container(char c);
  Taken punctuation(char c);
  Taken start_string(char c);
  Taken start_scalar(char c, Lex lex);

  bool count_token();
  bool append(char c);
  bool check_value_is_due();
  void value_ends();
  std::string_view complaint_about_separator() const;
  void fail(std::string_view reason);
  void fail_limit(std::string_view reason);
  void start_over(char c);

  Limits limits_;
  Lex lex_ = Lex::kBetween;
  Expect expect_ = Expect::kValue;
  bool skipping_ = false;
  bool line_is_blank_ = false;  // only blanks since the last line end
  char quote_ = 0;              // the quote that ends the string we are in; 0 outside
  unsigned hex_digits_ = 0;     // still to come after \u
  size_t skip_depth_ = 0;       // open brackets of the value being skipped
  size_t token_start_ = 0;      // offset in text_
  size_t tokens_ = 0;
  std::string open_;  // the open containers, outermost first: '{' or '['
  std::string text_;
  std::optional<Frame> frame_;
};

}  // namespace rhea::vmm
