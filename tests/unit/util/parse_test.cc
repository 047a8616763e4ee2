#include "util/parse.h"

#include <catch2/catch.hpp>
#include <limits>

using namespace rhea;

namespace {
constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
}

TEST_CASE("parse_uint: decimal and hexadecimal numbers up to 2^64 - 1 are read", "[parse]") {
  CHECK(parse_uint("0") == 0);
  CHECK(parse_uint("42") == 42);
  CHECK(parse_uint("0x2A") == 42);
  CHECK(parse_uint("18446744073709551615") == kMax);
  CHECK(parse_uint("0xffffffffffffffff") == kMax);
}

TEST_CASE("parse_uint: what is not wholly a number below 2^64 is refused", "[parse]") {
  for (const char* text :
       {"", " ", "-1", "+1", " 1", "1 ", "1x", "0x", "0xg", "x1", "1.0", "010", "00", "1e3",
        "18446744073709551616", "0x10000000000000000", "999999999999999999999999"}) {
    INFO(text);
    CHECK_FALSE(parse_uint(text).has_value());
  }
}

TEST_CASE("parse_size: suffixes, fractions and the default unit give bytes", "[parse]") {
  struct Row {
    const char* text;
    uint64_t unit;
    uint64_t bytes;
  };
  for (const Row& row :
       {Row{"512", 1, 512}, Row{"512", kMiB, 512 * kMiB}, Row{"7B", kMiB, 7}, Row{"1k", 1, kKiB},
        Row{"1K", 1, kKiB}, Row{"3M", 1, 3 * kMiB}, Row{"2g", 1, 2 * kGiB},
        Row{"1T", 1, kGiB * 1024}, Row{"1P", 1, kGiB * kMiB}, Row{"15E", 1, 15 * kGiB * kGiB},
        Row{"1.5G", 1, kGiB + kGiB / 2}, Row{"1.5", kMiB, kMiB + kMiB / 2},
        Row{"0.25M", 1, kMiB / 4}, Row{"0.0000000000000000000009K", 1, 0}, Row{"0x400", 1, 1024},
        Row{"0x1", kMiB, kMiB}, Row{"15.99999999999999999999E", 1, kMax}}) {
    INFO(row.text);
    CHECK(parse_size(row.text, row.unit) == row.bytes);
  }
}

TEST_CASE("parse_size: malformed, negative and too large sizes are refused", "[parse]") {
  for (const char* text : {"",      "G",     "-1",     "+1G",    "1X",
                           "1GB",   "1 G",   ".5G",    "1.G",    "1.5",
                           "1.5B",  "1..5G", "1.5.5G", "1.xG",   "0x10G",
                           "0x1.8", "1e3",   "16E",    "16384P", "18446744073709551616",
                           "bogus", "\xff"}) {
    INFO(text);
    CHECK_FALSE(parse_size(text).has_value());
  }
}

TEST_CASE("parse_bool: every spelling of yes and no, and nothing else", "[parse]") {
  for (const char* text : {"on", "yes", "true", "y"}) CHECK(parse_bool(text) == true);
  for (const char* text : {"off", "no", "false", "n"}) CHECK(parse_bool(text) == false);
  for (const char* text : {"", "1", "0", "ON", "maybe", "on "}) {
    CHECK_FALSE(parse_bool(text).has_value());
  }
}

TEST_CASE("is_identifier: a letter, then letters, digits, '-', '.' and '_'", "[parse]") {
  for (const char* text : {"a", "pc.ram", "virtio-disk0", "A_b"}) CHECK(is_identifier(text));
  for (const char* text : {"", "1a", "_a", "-a", "a b", "a/b", "a,b", "\xc3\xa4"}) {
    CHECK_FALSE(is_identifier(text));
  }
}
