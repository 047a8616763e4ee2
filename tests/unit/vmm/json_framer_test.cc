#include "vmm/qmp/json_framer.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/support/size.h"

using namespace rhea;
using vmm::JsonFramer;

namespace {

using Lines = std::vector<std::string>;

/// What comes of `data`, cut into `pieces`: a value as it is, a mistake behind "!".
Lines frames(JsonFramer& framer, const std::vector<std::string_view>& pieces) {
  Lines lines;
  for (std::string_view piece : pieces) {
    while (!piece.empty()) {
      std::optional<JsonFramer::Frame> frame;
      piece.remove_prefix(framer.feed(piece, frame));
      if (frame) lines.push_back(frame->has_value() ? **frame : "!" + frame->error());
    }
  }
  return lines;
}

Lines frames(std::string_view data) {
  JsonFramer framer;
  return frames(framer, {data});
}

std::string parse_error(const std::string& what) { return "!JSON parse error, " + what; }

}  // namespace

TEST_CASE("JsonFramer: values end where they end, not where lines do", "[qmp]") {
  CHECK(frames("{}") == Lines{"{}"});
  CHECK(frames("{} [] {}\n") == Lines{"{}", "[]", "{}"});
  CHECK(frames("{\n \"a\":\n [1,\n{\n}\n]\n}\n") == Lines{R"({"a":[1,{}]})"});
  CHECK(frames("1 true null \"x\"") == Lines{"1", "true", "null", R"("x")"});
  CHECK(frames("12") == Lines{});  // more digits may follow
  CHECK(frames("-0.5e+3\n") == Lines{"-0.5e+3"});
  CHECK(frames(R"({"a":"}]\"{"})") == Lines{R"({"a":"}]\"{"})"});
}

TEST_CASE("JsonFramer: every cut of the stream gives the same frames", "[qmp]") {
  const std::string text =
      "{\"execute\":\"a\",\"id\":[1.5,{\"k\":\"\\u00e9\\\"}\"}]} {'b':'it\\'s \"x\"'}{bad json}\n"
      "{\"c\":\"open\n{\"d\":tru}\n\xff{\"e\":-1}[1,]{\"f\":{}\n{\"g\":null}\n";
  const Lines whole = frames(text);
  REQUIRE(whole.size() == 10);
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); second += 7) {
      JsonFramer framer;
      const std::string_view view(text);
      const Lines cut = frames(
          framer, {view.substr(0, first), view.substr(first, second - first), view.substr(second)});
      REQUIRE(cut == whole);
    }
  }
}

TEST_CASE("JsonFramer: single quotes come out as JSON's own", "[qmp]") {
  CHECK(frames("{'execute':'quit'}") == Lines{R"({"execute":"quit"})"});
  CHECK(frames(R"(['a"b', 'c\'d', "e\'f"])") == Lines{R"(["a\"b","c'd","e'f"])"});
}

TEST_CASE("JsonFramer: mistakes have QEMU's words", "[qmp]") {
  CHECK(frames("{bad json}\n") == Lines{parse_error("invalid keyword 'bad'")});
  CHECK(frames("}\n") == Lines{parse_error("expecting value")});
  CHECK(frames("{\"a\" 1}\n") == Lines{parse_error("missing : in object pair")});
  CHECK(frames("{\"a\":}\n") == Lines{parse_error("expecting value")});
  CHECK(frames("{\"a\":1,}\n") == Lines{parse_error("expecting value")});
  CHECK(frames("{\"a\":1 \"b\":2}\n") == Lines{parse_error("expected separator in dict")});
  CHECK(frames("[1 2]\n") == Lines{parse_error("expected separator in list")});
  CHECK(frames("{1:2}\n") == Lines{parse_error("key is not a string in object")});
  CHECK(frames("[01]\n") == Lines{parse_error("stray '01'")});
  CHECK(frames("[-]\n") == Lines{parse_error("stray '-'")});
  CHECK(frames("[%]\n") == Lines{parse_error("stray '%'")});
  CHECK(frames("[\"\\x\"]\n") == Lines{parse_error("invalid escape sequence in string")});
  CHECK(frames("[\"\\u12g4\"]\n") == Lines{parse_error("invalid escape sequence in string")});
  CHECK(frames("[\"a\tb\"]\n") == Lines{parse_error("control character in string")});
}

TEST_CASE("JsonFramer: a mistake costs the value it is in and nothing more", "[qmp]") {
  CHECK(frames("{bad \"}\" {}} {\"a\":1}\n") ==
        Lines{parse_error("invalid keyword 'bad'"), R"({"a":1})"});
  CHECK(frames("{\"a\":\n  bad,\n  \"b\": [\n1\n]\n}\n{}") ==
        Lines{parse_error("invalid keyword 'bad'"), "{}"});
  CHECK(frames("[1}{}\n") == Lines{parse_error("expected separator in list"), "{}"});
}

TEST_CASE("JsonFramer: a value left open does not swallow the lines behind it", "[qmp]") {
  const std::string next = "{\"execute\":\"a\"}\n";
  const std::string good = R"({"execute":"a"})";
  CHECK(frames("{\n" + next) == Lines{parse_error("key is not a string in object"), good});
  CHECK(frames("{\"execute\":\"b\"\n" + next) ==
        Lines{parse_error("expected separator in dict"), good});
  CHECK(frames("{\"execute\":\"b\n" + next) == Lines{parse_error("unterminated string"), good});
  CHECK(frames("{\"execute\":\"b\\\n" + next) ==
        Lines{parse_error("invalid escape sequence in string"), good});
  // A value is due here, so the first line still fits; the second does not.
  CHECK(frames("{\"execute\":\n" + next + next) ==
        Lines{parse_error("expected separator in dict"), good});
  CHECK(frames("[\n" + next + next) == Lines{parse_error("expected separator in list"), good});
  CHECK(frames("\"b\n" + next) == Lines{parse_error("unterminated string"), good});
}

TEST_CASE("JsonFramer: a control character, 0xFE or 0xFF starts over", "[qmp]") {
  CHECK(frames("{\"a\":[\x01{}") == Lines{parse_error("stray '\x01'"), "{}"});
  CHECK(frames("{\"a\":\"b\xff{}") == Lines{parse_error("stray '\xef\xbf\xbd'"), "{}"});
  CHECK(frames("{bad [\xfe{}") ==
        Lines{parse_error("invalid keyword 'bad'"), parse_error("stray '\xef\xbf\xbd'"), "{}"});
}

TEST_CASE("JsonFramer: nesting is allowed to its limit and refused beyond", "[qmp]") {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  CHECK(frames(nested(1024)) == Lines{nested(1024)});
  CHECK(frames(nested(1025) + "{}") == Lines{"!JSON nesting depth limit exceeded", "{}"});
  CHECK(frames("{\"id\":" + nested(1023) + "}").front().front() == '{');
  CHECK(frames("{\"id\":" + nested(1024) + "}{}") ==
        Lines{"!JSON nesting depth limit exceeded", "{}"});
  CHECK(frames(std::string(100'000, '[') + "\n{}") ==
        Lines{"!JSON nesting depth limit exceeded", "{}"});
}

TEST_CASE("JsonFramer: an endless line is refused once and costs bounded memory", "[qmp]") {
  const size_t megabytes = test::sized<size_t>(8, 100);
  for (const std::string_view start : {"{\"a\":\"", "[", "\"", "{\"a\":["}) {
    JsonFramer framer;
    Lines lines = frames(framer, {start});
    const std::string chunk =
        start.ends_with('"') ? std::string(1 << 20, 'x') : std::string(1 << 20, ' ') + "123456789,";
    size_t most = 0;
    for (size_t i = 0; i < megabytes; ++i) {
      for (auto& line : frames(framer, {chunk})) lines.push_back(line);
      most = std::max(most, framer.held_bytes());
    }
    CHECK(most <= (1 << 20) + 4);
    if (start.ends_with('"')) {
      CHECK(lines == Lines{"!JSON message size limit exceeded"});
      CHECK(framer.held_bytes() == 0);
    }
    CHECK(frames(framer, {"\n\xff{}"}).back() == "{}");
  }
}

TEST_CASE("JsonFramer: a value of too many parts is refused", "[qmp]") {
  std::string many = "[";
  for (int i = 0; i < 40'000; ++i) many += "1,";
  CHECK(frames(many + "1]{}") == Lines{"!JSON token count limit exceeded", "{}"});
}
