#include "vmm/qmp/json_text.h"

#include <fmt/format.h>

#include <cstdint>
#include <iterator>
#include <set>
#include <vector>

namespace rhea::vmm {

namespace {

constexpr uint32_t kReplacement = 0xfffd;

struct Decoded {
  uint32_t code_point = kReplacement;
  size_t length = 1;
  bool valid = false;
};

/// The code point that starts `text`, by the table of RFC 3629: shortest form, no surrogates.
Decoded decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return {};
  uint32_t code_point = lead & (0x7fU >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return {};
    code_point = (code_point << 6) | (byte(i) & 0x3fU);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code_point >= 0xd800 && code_point <= 0xdfff;
  if (code_point < kSmallest[length] || code_point > 0x10ffff || surrogate) return {};
  return {code_point, length, true};
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Decoded decoded = decode_utf8(text);
    if (!decoded.valid) return false;
    text.remove_prefix(decoded.length);
  }
  return true;
}

void append_escaped(std::string& out, uint32_t code_point) {
  const auto escape = [&](uint32_t unit) {
    fmt::format_to(std::back_inserter(out), "\\u{:04X}", unit);
  };
  if (code_point < 0x10000) return escape(code_point);
  escape(0xd800 + ((code_point - 0x10000) >> 10));
  escape(0xdc00 + ((code_point - 0x10000) & 0x3ff));
}

/// Notices a key that an object has twice; nlohmann_json would keep the last one in silence.
class DuplicateKeys {
 public:
  bool operator()(int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) {
      found_ |= !keys_.back().insert(parsed.get<std::string>()).second;
    }
    return true;
  }
  bool found() const { return found_; }

 private:
  std::vector<std::set<std::string>> keys_;
  bool found_ = false;
};

template <class AnyJson>
void append_value(std::string& out, const AnyJson& value) {
  if (value.is_string()) {
    append_json_string(out, value.template get_ref<const std::string&>());
  } else if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out += ", ";
      append_value(out, value[i]);
    }
    out += ']';
  } else if (value.is_object()) {
    out += '{';
    std::string_view separator;
    for (const auto& [key, member] : value.items()) {
      out += std::exchange(separator, ", ");
      append_json_string(out, key);
      out += ": ";
      append_value(out, member);
    }
    out += '}';
  } else {
    out += value.dump();
  }
}

}  // namespace

std::expected<Json, std::string> parse_json(std::string_view text) {
  DuplicateKeys duplicates;
  try {
    Json value = Json::parse(text, std::ref(duplicates));
    if (duplicates.found()) return std::unexpected("JSON parse error, duplicate key");
    return value;
  } catch (const Json::out_of_range&) {
    return std::unexpected("JSON parse error, number out of range");
  } catch (const Json::exception&) {
    return std::unexpected(
        is_utf8(text) ? "JSON parse error, escape sequence is not a valid Unicode character"
                      : "JSON parse error, invalid UTF-8 sequence in string");
  }
}

void append_json(std::string& out, const Json& value) { append_value(out, value); }
void append_json(std::string& out, const ReplyJson& value) { append_value(out, value); }

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const Decoded decoded = decode_utf8(text);
    text.remove_prefix(decoded.length);
    constexpr std::string_view kNamed = "\"\\\b\f\n\r\t";
    constexpr std::string_view kLetters = "\"\\bfnrt";
    const auto c = static_cast<char>(decoded.code_point);
    if (decoded.code_point >= 0x7f || (decoded.code_point < 0x20 && !kNamed.contains(c))) {
      append_escaped(out, decoded.code_point);
    } else if (const size_t named = kNamed.find(c); named != kNamed.npos) {
      out += '\\';
      out += kLetters[named];
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace rhea::vmm
