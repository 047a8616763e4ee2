#include "migration/zero_page.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <utility>
#include <vector>

using namespace rhea;
using namespace rhea::migration;

namespace {

using Test = std::function<bool(const std::byte*)>;

std::vector<std::pair<std::string, Test>> all_ways() {
  std::vector<std::pair<std::string, Test>> ways{{"words", internal::is_zero_by_words}};
  if (internal::has_avx2()) {
    ways.emplace_back("AVX2", internal::is_zero_by_avx2);
  } else {
    WARN("this CPU has no AVX2: only the words are tested");
  }
  ways.emplace_back("chosen", [](const std::byte* page) {
    return is_zero_page(std::span<const std::byte, kPageBytes>(page, kPageBytes));
  });
  return ways;
}

}  // namespace

TEST_CASE("is_zero_page: one bit anywhere makes a page non-zero, neighbours do not",
          "[migration]") {
  alignas(64) std::byte memory[3 * kPageBytes];
  std::byte* page = memory + kPageBytes;
  for (const auto& [name, is_zero] : all_ways()) {
    INFO(name);
    std::ranges::fill(memory, std::byte{0xff});
    std::ranges::fill(std::span(page, kPageBytes), std::byte{0});
    CHECK(is_zero(page));
    for (size_t at = 0; at < kPageBytes; ++at) {
      page[at] = static_cast<std::byte>(1U << at % 8);
      if (is_zero(page)) FAIL("byte " << at << " is overlooked");
      page[at] = std::byte{0};
    }
    CHECK(is_zero(page));
  }
}
