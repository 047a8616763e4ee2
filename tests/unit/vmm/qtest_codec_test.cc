#include "vmm/qtest_codec.h"

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

using namespace rhea::vmm;

namespace {

std::vector<std::byte> bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

}  // namespace

TEST_CASE("parse_number: C's notations, the whole word, 64 bits", "[qtest][sweep]") {
  struct Row {
    const char* word;
    std::optional<uint64_t> value;
  };
  for (const Row& row : std::vector<Row>{{"0", 0},
                                         {"10", 10},
                                         {"010", 8},
                                         {"0x10", 16},
                                         {"0XfF", 255},
                                         {"-1", UINT64_MAX},
                                         {"0xffffffffffffffff", UINT64_MAX},
                                         {"0x10000000000000000", {}},
                                         {"18446744073709551616", {}},
                                         {"", {}},
                                         {"0x", {}},
                                         {"-", {}},
                                         {"--1", {}},
                                         {"0x-1", {}},
                                         {"09", {}},
                                         {"1 ", {}},
                                         {"1z", {}},
                                         {"zz", {}}}) {
    CAPTURE(row.word);
    CHECK(parse_number(row.word) == row.value);
  }
}

TEST_CASE("Hex: there and back, and what is not hex", "[qtest][sweep]") {
  CHECK(to_hex(bytes("")) == "0x");
  CHECK(to_hex(bytes("\x01\xfeZ")) == "0x01fe5a");
  CHECK(from_hex("0x01Fe5a") == bytes("\x01\xfeZ"));
  CHECK(from_hex("0x") == bytes(""));
  for (const char* bad : {"", "0", "01fe", "0x1", "0x0g", "0x 1", "0x--"}) {
    CAPTURE(bad);
    CHECK_FALSE(from_hex(bad).has_value());
  }
}

TEST_CASE("Base64: the RFC's vectors, and what is not base64", "[qtest][rfc4648-10][sweep]") {
  struct Row {
    const char* plain;
    const char* coded;
  };
  for (const Row& row : std::vector<Row>{{"", ""},
                                         {"f", "Zg=="},
                                         {"fo", "Zm8="},
                                         {"foo", "Zm9v"},
                                         {"foob", "Zm9vYg=="},
                                         {"fooba", "Zm9vYmE="},
                                         {"foobar", "Zm9vYmFy"},
                                         {"\xfb\xff", "+/8="}}) {
    CAPTURE(row.plain);
    CHECK(to_base64(bytes(row.plain)) == row.coded);
    CHECK(from_base64(row.coded) == bytes(row.plain));
  }
  for (const char* bad : {"Z", "Zg", "Zg=", "Zg===", "Zg==Zg==", "Zh==", "Zm9=", "!!!!",
                          "=Zg=", "====", "Z===", "Zm 9"}) {
    CAPTURE(bad);
    CHECK_FALSE(from_base64(bad).has_value());
  }
}
