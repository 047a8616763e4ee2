#include "util/crc32c.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace rhea;

namespace {

using Bytes = std::vector<std::byte>;
using Sum = std::function<uint32_t(std::span<const std::byte>, uint32_t)>;

/// Every way that this CPU can go; the last is what production code calls.
std::vector<std::pair<std::string, Sum>> all_ways() {
  std::vector<std::pair<std::string, Sum>> ways{{"table", internal::crc32c_by_table}};
  if (internal::crc32c_has_instruction()) {
    ways.emplace_back("instruction", internal::crc32c_by_instruction);
  } else {
    WARN("this CPU has no CRC32C instruction: only the table is tested");
  }
  ways.emplace_back("chosen", [](std::span<const std::byte> data, uint32_t before) {
    return crc32c(data, before);
  });
  return ways;
}

Bytes counting(int first, int step) {
  Bytes bytes(32);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(first + step * static_cast<int>(i));
  }
  return bytes;
}

Bytes of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Bytes random_bytes(size_t size) {
  std::mt19937 random(1);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// The definition, one bit at a time.
uint32_t by_definition(std::span<const std::byte> data) {
  uint32_t sum = 0xffffffff;
  for (std::byte byte : data) {
    sum ^= std::to_integer<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0x82f63b78U : 0U);
  }
  return ~sum;
}

}  // namespace

TEST_CASE("crc32c: the published vectors come out", "[crc32c][RFC 3720 B.4]") {
  const std::vector<std::pair<Bytes, uint32_t>> vectors{
      {{}, 0},
      {of("a"), 0xc1d04330},
      {of("123456789"), 0xe3069283},
      {Bytes(32, std::byte{0x00}), 0x8a9136aa},
      {Bytes(32, std::byte{0xff}), 0x62a8ab43},
      {counting(0, 1), 0x46dd794e},
      {counting(31, -1), 0x113fdb5c},
  };
  for (const auto& [name, sum] : all_ways()) {
    for (const auto& [data, expected] : vectors) {
      INFO(name << ", " << data.size() << " bytes");
      CHECK(sum(data, 0) == expected);
    }
  }
}

TEST_CASE("crc32c: every length and alignment agrees with the definition", "[crc32c]") {
  const Bytes data = random_bytes(128);
  for (const auto& [name, sum] : all_ways()) {
    for (size_t start = 0; start < 8; ++start) {
      for (size_t size = 0; size <= 72; ++size) {
        const auto piece = std::span(data).subspan(start, size);
        if (sum(piece, 0) == by_definition(piece)) continue;
        FAIL(name << ": " << size << " bytes from " << start);
      }
    }
  }
}

TEST_CASE("crc32c: a buffer summed in two pieces has the sum of the whole", "[crc32c]") {
  const Bytes data = random_bytes(4099);
  const uint32_t whole = crc32c(data);
  for (const auto& [name, sum] : all_ways()) {
    for (size_t cut : {0UL, 1UL, 7UL, 8UL, 63UL, 2048UL, 4098UL, 4099UL}) {
      INFO(name << ", cut at " << cut);
      CHECK(sum(std::span(data).subspan(cut), sum(std::span(data).first(cut), 0)) == whole);
    }
  }
}

TEST_CASE("crc32c: a single flipped bit anywhere changes the sum", "[crc32c]") {
  Bytes data = random_bytes(64);
  const uint32_t whole = crc32c(data);
  for (size_t bit = 0; bit < 8 * data.size(); ++bit) {
    const auto mask = static_cast<std::byte>(1U << bit % 8);
    data[bit / 8] ^= mask;
    if (crc32c(data) == whole) FAIL("bit " << bit);
    data[bit / 8] ^= mask;
  }
}
