#include "util/saved_state.h"

#include <catch2/catch.hpp>
#include <limits>

using namespace rhea;

namespace {

struct Alarm {
  uint8_t hour = 0;
  std::array<uint8_t, 2> days{};
  friend bool operator==(const Alarm&, const Alarm&) = default;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("hour", s.hour);
    v.field("days", s.days);
  }
};

struct Clock {
  bool on = false;
  uint8_t index = 0;
  uint16_t year = 0;
  uint32_t ticks = 0;
  uint64_t frequency = 0;
  int64_t offset = 0;
  std::array<uint8_t, 4> cmos{};
  std::vector<uint8_t> fifo;
  std::string name;
  Alarm next;
  std::array<Alarm, 2> fixed{};
  std::vector<Alarm> alarms;
  friend bool operator==(const Clock&, const Clock&) = default;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("on", s.on);
    v.field("index", s.index);
    v.field("year", s.year);
    v.field("ticks", s.ticks);
    v.field("frequency", s.frequency);
    v.field("offset", s.offset);
    v.field("cmos", s.cmos);
    v.field("fifo", s.fifo, 16);
    v.field("name", s.name, 8);
    v.field("next", s.next);
    v.field("fixed", s.fixed);
    v.field("alarms", s.alarms, 3);
  }
};

Clock sample() {
  return {.on = true,
          .index = 0xfe,
          .year = 2026,
          .ticks = 0x12345678,
          .frequency = std::numeric_limits<uint64_t>::max(),
          .offset = std::numeric_limits<int64_t>::min(),
          .cmos = {1, 2, 3, 4},
          .fifo = {9, 8, 7},
          .name = "wall",
          .next = {7, {1, 2}},
          .fixed = {Alarm{1, {3, 4}}, Alarm{2, {5, 6}}},
          .alarms = {{23, {7, 8}}}};
}

// tests/layering/test_saved_state.py reads the same files.
constexpr const char* kGolden =
#include "tests/unit/util/saved_state_golden.inc"
    ;
constexpr const char* kGoldenJson =
#include "tests/unit/util/saved_state_golden_json.inc"
    ;

template <class T>
std::string error_of(std::span<const uint8_t> bytes) {
  const Result<T> read = decode_state<T>("rtc", bytes);
  return read ? "" : read.error().message();
}

/// A state of one field, in two forms that may or may not fit each other.
template <class T, size_t kMax = 0>
struct One {
  T x{};
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    if constexpr (kMax > 0) {
      v.field("x", s.x, kMax);
    } else {
      v.field("x", s.x);
    }
  }
};

struct Renamed {
  uint8_t y = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("y", s.y);
  }
};

template <size_t kLevels>
struct Nest {
  Nest<kLevels - 1> x;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("x", s.x);
  }
};
template <>
struct Nest<0> {
  template <class Visitor, class Self>
  static void describe(Visitor&, Self&) {}
};

/// Bytes of `levels` structs, one in the other.
std::vector<uint8_t> nested(size_t levels) {
  std::vector<uint8_t> bytes;
  for (size_t level = 0; level < levels; ++level) {
    std::vector<uint8_t> outer{1, 'x', 9, static_cast<uint8_t>(bytes.size()), 0, 0, 0};
    outer.insert(outer.end(), bytes.begin(), bytes.end());
    bytes = outer;
  }
  return bytes;
}

}  // namespace

TEST_CASE("saved state: what was encoded is decoded, extremes included", "[saved_state]") {
  const Clock clock = sample();
  const Result<Clock> read = decode_state<Clock>("rtc", encode_state(clock));
  REQUIRE(read.has_value());
  CHECK(*read == clock);
  CHECK(encode_state(*read) == encode_state(clock));
}

TEST_CASE("saved state: the bytes are those of the format", "[saved_state]") {
  One<uint16_t> number{0x1234};
  CHECK(encode_state(number) == std::vector<uint8_t>{1, 'x', 3, 0x34, 0x12});
  One<std::vector<Renamed>, 2> list{{{5}}};
  CHECK(encode_state(list) == std::vector<uint8_t>{1, 'x', 10, 12, 0, 0, 0, 1, 0, 0, 0,  //
                                                   4, 0, 0, 0, 1, 'y', 2, 5});
}

TEST_CASE("saved state: the schema says every name, type and bound", "[saved_state]") {
  CHECK(state_schema<Clock>() ==
        "{on bool, index u8, year u16, ticks u32, frequency u64, offset i64, cmos bytes[4], "
        "fifo bytes[..16], name string[..8], next struct{hour u8, days bytes[2]}, "
        "fixed list[2]{hour u8, days bytes[2]}, alarms list[..3]{hour u8, days bytes[2]}}");
  CHECK(state_schema<One<uint8_t>>() != state_schema<Renamed>());
}

TEST_CASE("saved state: the first field that does not fit is named with its path",
          "[saved_state]") {
  const auto bytes = [](auto value) { return encode_state(value); };
  CHECK(error_of<Renamed>(bytes(One<uint8_t>{})) == "rtc: field 'y': found 'x' in its place");
  CHECK(error_of<One<uint16_t>>(bytes(One<uint8_t>{})) == "rtc: field 'x': type u8, expected u16");
  CHECK(error_of<One<std::array<uint8_t, 128>>>(bytes(One<std::array<uint8_t, 64>>{})) ==
        "rtc: field 'x': 64 bytes, expected 128");
  CHECK(error_of<One<std::vector<uint8_t>, 2>>(bytes(One<std::vector<uint8_t>, 3>{{1, 2, 3}})) ==
        "rtc: field 'x': 3 bytes, expected at most 2");
  CHECK(error_of<One<std::string, 2>>(bytes(One<std::string, 3>{"abc"})) ==
        "rtc: field 'x': 3 bytes, expected at most 2");
  CHECK(error_of<One<std::vector<Alarm>, 1>>(bytes(One<std::vector<Alarm>, 2>{{{}, {}}})) ==
        "rtc: field 'x': 2 elements, expected at most 1");
  CHECK(error_of<One<std::array<Alarm, 2>>>(bytes(One<std::array<Alarm, 1>>{})) ==
        "rtc: field 'x': 1 elements, expected 2");
  CHECK(error_of<One<std::vector<Renamed>, 2>>(bytes(One<std::vector<Alarm>, 2>{{{}}})) ==
        "rtc: field 'x[0].y': found 'hour' in its place");
  CHECK(error_of<One<Renamed>>(bytes(One<One<uint8_t>>{})) ==
        "rtc: field 'x.y': found 'x' in its place");
}

TEST_CASE("saved state: missing, surplus and unnamed fields are refused", "[saved_state]") {
  std::vector<uint8_t> bytes = encode_state(One<uint8_t>{});
  bytes.insert(bytes.end(), {1, 'z', 2, 0});
  CHECK(error_of<One<uint8_t>>(bytes) == "rtc: 4 bytes are left over");
  CHECK(error_of<One<uint8_t>>({}) == "rtc: field 'x': missing");
  CHECK(error_of<One<uint8_t>>(std::vector<uint8_t>{0, 2, 0}) ==
        "rtc: field 'x': found '' in its place");
  CHECK(error_of<One<uint8_t>>(std::vector<uint8_t>{1, '\n', 2, 0}) ==
        "rtc: field 'x': found '?' in its place");
  CHECK(error_of<One<uint8_t>>(std::vector<uint8_t>{1, 'x', 99, 0}) ==
        "rtc: field 'x': type unknown, expected u8");
  // Inside a struct: one field too many, and one too few.
  CHECK(error_of<One<One<uint8_t>>>(std::vector<uint8_t>{1, 'x', 9, 5, 0, 0, 0, 1, 'x', 2, 0, 9}) ==
        "rtc: field 'x': 1 bytes are left over");
  CHECK(error_of<One<One<uint8_t>>>(std::vector<uint8_t>{1, 'x', 9, 0, 0, 0, 0}) ==
        "rtc: field 'x.x': missing");
}

TEST_CASE("saved state: a truth value is 0 or 1", "[saved_state]") {
  CHECK(error_of<One<bool>>(std::vector<uint8_t>{1, 'x', 1, 1}) == "");
  CHECK(error_of<One<bool>>(std::vector<uint8_t>{1, 'x', 1, 2}) ==
        "rtc: field 'x': 2 is neither true nor false");
}

TEST_CASE("saved state: every truncation and every flipped byte is an error or another value",
          "[saved_state]") {
  const std::vector<uint8_t> whole = encode_state(sample());
  for (size_t size = 0; size < whole.size(); ++size) {
    INFO(size);
    // A copy of exactly this size, so that a sanitizer sees a byte read too far.
    const std::vector<uint8_t> part(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    CHECK_FALSE(decode_state<Clock>("rtc", part).has_value());
    (void)state_to_json(part);
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
      INFO(at << " " << flip);
      std::vector<uint8_t> bytes = whole;
      bytes[at] = static_cast<uint8_t>(bytes[at] ^ flip);
      const Result<Clock> read = decode_state<Clock>("rtc", bytes);
      // What is accepted has one form only: nothing was overlooked.
      if (read) CHECK(encode_state(*read) == bytes);
      (void)state_to_json(bytes);
    }
  }
}

TEST_CASE("saved state: a count or length that the bytes do not hold takes no memory",
          "[saved_state]") {
  using Lists = One<std::vector<Alarm>, std::numeric_limits<uint32_t>::max()>;
  const std::vector<uint8_t> list{1, 'x', 10, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
  CHECK(error_of<Lists>(list) == "rtc: field 'x[0]': the data ends in it");
  CHECK_FALSE(state_to_json(list).has_value());
  using Blob = One<std::vector<uint8_t>, std::numeric_limits<uint32_t>::max()>;
  const std::vector<uint8_t> blob{1, 'x', 7, 0xff, 0xff, 0xff, 0xff, 0};
  CHECK(error_of<Blob>(blob) == "rtc: field 'x': the data ends in it");
  CHECK_FALSE(state_to_json(blob).has_value());
  const std::vector<uint8_t> huge(kMaxStateBytes + 1);
  CHECK(error_of<Renamed>(huge) == "rtc: 16777217 bytes, at most 16777216");
}

TEST_CASE("saved state: structs are nested as deeply as the format says", "[saved_state]") {
  CHECK(decode_state<Nest<kMaxStateDepth>>("rtc", nested(kMaxStateDepth)).has_value());
  CHECK(error_of<Nest<kMaxStateDepth + 1>>(nested(kMaxStateDepth + 1)) ==
        "rtc: field 'x.x.x.x.x.x.x.x.x': nested too deeply");
  CHECK(state_to_json(nested(kMaxStateDepth)).has_value());
  CHECK_FALSE(state_to_json(nested(kMaxStateDepth + 1)).has_value());
}

TEST_CASE("saved state: the bytes and their dump are those that scripts/ reads", "[saved_state]") {
  std::string hex;
  for (const uint8_t byte : encode_state(sample())) hex += fmt::format("{:02x}", byte);
  std::string golden = kGolden;
  std::erase(golden, '\n');
  CHECK(hex == golden);
  CHECK(*state_to_json(encode_state(sample())) == kGoldenJson);
}

TEST_CASE("saved state: an encoded state is printed without its description", "[saved_state]") {
  CHECK(*state_to_json(encode_state(One<std::string, 8>{"\"\n\xff"})) == R"({"x": "\"\n\ufffd"})");
  CHECK(*state_to_json({}) == "{}");
}

TEST_CASE("saved state: what can not be printed is named with its path", "[saved_state]") {
  const auto error = [](std::vector<uint8_t> bytes) { return state_to_json(bytes).error(); };
  CHECK(error({1, 'x', 99, 0}).message() == "field 'x': of no known type");
  CHECK(error({1, 'x', 9, 3, 0, 0, 0, 1, 'y', 3}).message() == "field 'x.y': the data ends in it");
  CHECK(error({1, 'x', 10, 5, 0, 0, 0, 0, 0, 0, 0, 7}).message() ==
        "field 'x': bytes are left over");
}
