// Every test has a short size (CI) and a full one (RHEA_TEST_SIZE=full, run by hand).
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdlib>
#include <string_view>

#include "tests/support/sanitizer.h"

namespace rhea::test {

inline bool full_size() {
  const char* size = std::getenv("RHEA_TEST_SIZE");
  return size != nullptr && std::string_view(size) == "full";
}

/// `full` when RHEA_TEST_SIZE=full, else `brief`. Of rounds a sanitizer has a tenth to make, which
/// takes it as long; a span of time is the same for all.
template <class T>
T sized(T brief, T full) {
  if (!full_size()) return brief;
  if constexpr (std::integral<T>) {
    if (kAsan || kTsan) return std::max(brief, static_cast<T>(full / 10));
  }
  return full;
}

}  // namespace rhea::test
