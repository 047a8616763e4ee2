#include "vmm/qmp/json_framer.h"

#include <fmt/format.h>

#include <utility>

namespace rhea::vmm {

namespace {

constexpr std::string_view kExpectingValue = "expecting value";
constexpr std::string_view kMissingColon = "missing : in object pair";

constexpr bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
constexpr bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
constexpr bool is_number_char(char c) {
  return is_digit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/// Bytes that no JSON text contains anywhere: they say "start over".
constexpr bool is_reset(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && !is_blank(c)) || byte >= 0xfe;
}

/// A byte as it may stand in a message.
std::string printable(char c) {
  return static_cast<unsigned char>(c) >= 0x7f ? "\xef\xbf\xbd" : std::string(1, c);
}

size_t skip_digits(std::string_view text, size_t at) {
  while (at < text.size() && is_digit(text[at])) ++at;
  return at;
}

/// Whether `text` is a number by JSON's grammar (RFC 8259, section 6).
bool is_number(std::string_view text) {
  size_t at = text.starts_with('-') ? 1 : 0;
  const size_t integer_end = skip_digits(text, at);
  if (integer_end == at || (text[at] == '0' && integer_end > at + 1)) return false;
  at = integer_end;
  if (at < text.size() && text[at] == '.') {
    const size_t end = skip_digits(text, at + 1);
    if (end == at + 1) return false;
    at = end;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    const size_t end = skip_digits(text, at);
    if (end == at) return false;
    at = end;
  }
  return at == text.size();
}

}  // namespace

size_t JsonFramer::feed(std::string_view data, std::optional<Frame>& frame) {
  for (size_t i = 0; i < data.size();) {
    if (step(data[i]) == Taken::kYes) ++i;
    if (frame_.has_value()) {
      frame = std::exchange(frame_, std::nullopt);
      return i;
    }
  }
  return data.size();
}

void JsonFramer::reset() {
  lex_ = Lex::kBetween;
  expect_ = Expect::kValue;
  skipping_ = false;
  line_is_blank_ = false;
  quote_ = 0;
  tokens_ = 0;
  open_ = {};
  text_ = {};
}

JsonFramer::Taken JsonFramer::step(char c) {
  if (is_reset(c)) {
    start_over(c);
    return Taken::kYes;
  }
  if (skipping_) return skip(c);
  switch (lex_) {
    case Lex::kBetween:
      return between(c);
    case Lex::kString:
      return in_string(c);
    case Lex::kEscape:
    case Lex::kHexDigits:
      return in_escape(c);
    case Lex::kNumber:
      return in_number(c);
    case Lex::kKeyword:
      return in_keyword(c);
  }
  std::unreachable();
}

JsonFramer::Taken JsonFramer::between(char c) {
  if (is_blank(c)) {
    if (c == '\n') line_is_blank_ = true;
    return Taken::kYes;
  }
  if (c == '{' || c == '[') return open_container(c);  // looks at line_is_blank_
  line_is_blank_ = false;
  if (c == '}' || c == ']') return close_container(c);
  if (c == ',' || c == ':') return punctuation(c);
  if (c == '"' || c == '\'') return start_string(c);
  if (is_digit(c) || c == '-') return start_scalar(c, Lex::kNumber);
  if (is_lower(c)) return start_scalar(c, Lex::kKeyword);
  fail(fmt::format("stray '{}'", printable(c)));
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::open_container(char c) {
  if (!check_value_is_due()) return Taken::kNo;
  line_is_blank_ = false;
  if (open_.size() >= limits_.depth) {
    fail_limit("JSON nesting depth limit exceeded");
    return Taken::kNo;
  }
  if (!count_token() || !append(c)) return Taken::kNo;
  open_ += c;
  expect_ = c == '{' ? Expect::kKeyOrEnd : Expect::kValueOrEnd;
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::close_container(char c) {
  if (open_.empty()) {
    fail(kExpectingValue);
    return Taken::kYes;
  }
  const bool matches = open_.back() == (c == '}' ? '{' : '[');
  const bool may_end = expect_ == Expect::kCommaOrEnd || expect_ == Expect::kKeyOrEnd ||
                       expect_ == Expect::kValueOrEnd;
  if (!matches || !may_end) {
    fail(expect_ == Expect::kColon        ? kMissingColon
         : expect_ == Expect::kCommaOrEnd ? complaint_about_separator()
                                          : kExpectingValue);
    return Taken::kNo;
  }
  if (!append(c)) return Taken::kNo;
  open_.pop_back();
  value_ends();
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::punctuation(char c) {
  const Expect due = c == ',' ? Expect::kCommaOrEnd : Expect::kColon;
  if (open_.empty() || expect_ != due) {
    fail(expect_ == Expect::kColon        ? kMissingColon
         : expect_ == Expect::kCommaOrEnd ? complaint_about_separator()
                                          : kExpectingValue);
    return Taken::kYes;
  }
  if (!count_token() || !append(c)) return Taken::kNo;
  expect_ = c == ',' && open_.back() == '{' ? Expect::kKey : Expect::kValue;
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::start_string(char c) {
  const bool is_key = expect_ == Expect::kKey || expect_ == Expect::kKeyOrEnd;
  if (!is_key && !check_value_is_due()) return Taken::kNo;
  if (!count_token() || !append('"')) return Taken::kNo;
  lex_ = Lex::kString;
  quote_ = c;
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::start_scalar(char c, Lex lex) {
  // Whether a value may stand here is looked at when it ends: that a word is no word matters more.
  token_start_ = text_.size();
  if (!count_token() || !append(c)) return Taken::kNo;
  lex_ = lex;
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::in_string(char c) {
  if (c == '\n') {
    line_is_blank_ = true;
    quote_ = 0;
    fail("unterminated string");
  } else if (static_cast<unsigned char>(c) < 0x20) {
    fail("control character in string");
  } else if (c == '\\') {
    lex_ = Lex::kEscape;  // the backslash is stored with what it escapes
  } else if (c == quote_) {
    if (!append('"')) return Taken::kNo;
    quote_ = 0;
    lex_ = Lex::kBetween;
    if (expect_ == Expect::kKey || expect_ == Expect::kKeyOrEnd) {
      expect_ = Expect::kColon;
    } else {
      value_ends();
    }
  } else {
    if (c == '"' && !append('\\')) return Taken::kNo;  // within single quotes
    if (!append(c)) return Taken::kNo;
  }
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::in_escape(char c) {
  if (lex_ == Lex::kHexDigits) {
    if (!is_hex(c)) {
      lex_ = Lex::kString;
      fail("invalid escape sequence in string");
      return Taken::kNo;
    }
    if (!append(c)) return Taken::kNo;
    if (--hex_digits_ == 0) lex_ = Lex::kString;
    return Taken::kYes;
  }
  constexpr std::string_view kEscapes = "\"'\\/bfnrtu";
  if (!kEscapes.contains(c)) {
    fail("invalid escape sequence in string");
    return c == '\n' ? Taken::kNo : Taken::kYes;
  }
  if (c != '\'' && !append('\\')) return Taken::kNo;  // \' is QEMU's, not JSON's
  if (!append(c)) return Taken::kNo;
  lex_ = c == 'u' ? Lex::kHexDigits : Lex::kString;
  hex_digits_ = 4;
  return Taken::kYes;
}

JsonFramer::Taken JsonFramer::in_number(char c) {
  if (is_number_char(c)) return append(c) ? Taken::kYes : Taken::kNo;
  const std::string_view number = std::string_view(text_).substr(token_start_);
  lex_ = Lex::kBetween;
  if (!is_number(number)) {
    fail(fmt::format("stray '{}'", number.substr(0, 32)));
  } else if (check_value_is_due()) {
    value_ends();
  }
  return Taken::kNo;
}

JsonFramer::Taken JsonFramer::in_keyword(char c) {
  if (is_lower(c)) return append(c) ? Taken::kYes : Taken::kNo;
  const std::string_view word = std::string_view(text_).substr(token_start_);
  lex_ = Lex::kBetween;
  if (word != "true" && word != "false" && word != "null") {
    fail(fmt::format("invalid keyword '{}'", word.substr(0, 32)));
  } else if (check_value_is_due()) {
    value_ends();
  }
  return Taken::kNo;
}

/// Moves through a value that is known to be broken, to where the next one may start.
JsonFramer::Taken JsonFramer::skip(char c) {
  if (c == '\n') {
    quote_ = 0;  // no string spans lines
    lex_ = Lex::kBetween;
    line_is_blank_ = true;
    if (skip_depth_ == 0) reset();
    return Taken::kYes;
  }
  if (quote_ != 0) {
    const bool escaped = std::exchange(lex_, Lex::kBetween) == Lex::kEscape;
    if (!escaped && c == '\\') lex_ = Lex::kEscape;
    if (!escaped && c == quote_) quote_ = 0;
    if (quote_ == 0 && skip_depth_ == 0) reset();
    return Taken::kYes;
  }
  if (c == '{' && line_is_blank_) {
    reset();
    return Taken::kNo;
  }
  if (!is_blank(c)) line_is_blank_ = false;
  if (c == '"' || c == '\'') quote_ = c;
  if (c == '{' || c == '[') ++skip_depth_;
  if ((c == '}' || c == ']') && --skip_depth_ == 0) reset();
  return Taken::kYes;
}

bool JsonFramer::count_token() {
  if (++tokens_ <= limits_.tokens) return true;
  fail_limit("JSON token count limit exceeded");
  return false;
}

bool JsonFramer::append(char c) {
  if (text_.size() < limits_.bytes) {
    text_ += c;
    return true;
  }
  fail_limit("JSON message size limit exceeded");
  return false;
}

bool JsonFramer::check_value_is_due() {
  switch (expect_) {
    case Expect::kValue:
    case Expect::kValueOrEnd:
      return true;
    case Expect::kKey:
    case Expect::kKeyOrEnd:
      fail("key is not a string in object");
      return false;
    case Expect::kColon:
      fail(kMissingColon);
      return false;
    case Expect::kCommaOrEnd:
      fail(complaint_about_separator());
      return false;
  }
  std::unreachable();
}

void JsonFramer::value_ends() {
  if (!open_.empty()) {
    expect_ = Expect::kCommaOrEnd;
    return;
  }
  frame_ = std::move(text_);
  reset();
}

std::string_view JsonFramer::complaint_about_separator() const {
  return open_.back() == '{' ? "expected separator in dict" : "expected separator in list";
}

void JsonFramer::fail(std::string_view reason) {
  fail_limit(fmt::format("JSON parse error, {}", reason));
}

void JsonFramer::fail_limit(std::string_view reason) {
  frame_ = std::unexpected(std::string(reason));
  // A string that was too long is skipped as a string: its brackets are not brackets.
  const bool in_string = quote_ != 0;
  const size_t depth = open_.size();
  const char quote = quote_;
  const bool line_is_blank = line_is_blank_;
  reset();
  line_is_blank_ = line_is_blank;
  skipping_ = depth > 0 || in_string;
  skip_depth_ = depth;
  quote_ = quote;
}

void JsonFramer::start_over(char c) {
  reset();
  frame_ = std::unexpected(fmt::format("JSON parse error, stray '{}'", printable(c)));
}

}  // namespace rhea::vmm
