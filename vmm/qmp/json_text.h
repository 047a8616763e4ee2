// JSON values from text and to text, the way QMP writes them.
#pragma once

#include <expected>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rhea::vmm {

/// What clients send: members sorted by name, looked up in logarithmic time.
using Json = nlohmann::json;
/// What we answer: members in the order in which they were added.
using ReplyJson = nlohmann::ordered_json;

/// The value of `text`, which JsonFramer found complete, or a message as QEMU would word it.
/// Refused here are only: a key given twice, invalid UTF-8, half a surrogate pair, a number out of
/// range.
std::expected<Json, std::string> parse_json(std::string_view text);

/// Appends `value` on one line: ", " and ": " between items, everything beyond ASCII escaped, bytes
/// that are not UTF-8 replaced by U+FFFD.
void append_json(std::string& out, const Json& value);
void append_json(std::string& out, const ReplyJson& value);
void append_json_string(std::string& out, std::string_view text);

}  // namespace rhea::vmm
