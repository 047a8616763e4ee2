#include "vmm/qmp/json_text.h"

#include <catch2/catch.hpp>

using namespace rhea::vmm;

namespace {

std::string round_trip(std::string_view text) {
  const auto value = parse_json(text);
  if (!value) return "!" + value.error();
  std::string out;
  append_json(out, *value);
  return out;
}

}  // namespace

TEST_CASE("json_text: values come back in QMP's spacing", "[qmp]") {
  CHECK(round_trip(R"({"a":[1,2,{}],"b":null})") == R"({"a": [1, 2, {}], "b": null})");
  CHECK(round_trip("[]") == "[]");
  CHECK(round_trip("1.5") == "1.5");
  CHECK(round_trip("12345678901234567890") == "12345678901234567890");
  CHECK(round_trip("-9223372036854775808") == "-9223372036854775808");
}

TEST_CASE("json_text: what is not printable ASCII is escaped", "[qmp]") {
  CHECK(round_trip("\"\xc3\xa9/'\\n\\u0000\\u0001\\u007f\"") ==
        R"("\u00E9/'\n\u0000\u0001\u007F")");
  CHECK(round_trip("\"\xf0\x9f\x98\x80\"") == R"("\uD83D\uDE00")");
  std::string out;
  append_json_string(out, "a\xff\xc0\xaf\xed\xa0\x80z\xe2\x82");
  CHECK(out == R"("a\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDz\uFFFD\uFFFD")");
}

TEST_CASE("json_text: what can not be a value is refused", "[qmp]") {
  CHECK(round_trip(R"({"a":1,"a":2})") == "!JSON parse error, duplicate key");
  CHECK(round_trip(R"({"a":{"b":1},"c":{"b":1}})") == R"({"a": {"b": 1}, "c": {"b": 1}})");
  CHECK(round_trip("\"\xc0\xaf\"") == "!JSON parse error, invalid UTF-8 sequence in string");
  CHECK(round_trip(R"("\ud800")") ==
        "!JSON parse error, escape sequence is not a valid Unicode character");
  CHECK(round_trip("1e999") == "!JSON parse error, number out of range");
}
