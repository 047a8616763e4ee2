// Every test has a short size (CI) and a full one (RHEA_TEST_SIZE=full, run by hand).
#pragma once

#include <cstdlib>
#include <string_view>

namespace rhea::test {

inline bool full_size() {
  const char* size = std::getenv("RHEA_TEST_SIZE");
  return size != nullptr && std::string_view(size) == "full";
}

/// `full` rounds when RHEA_TEST_SIZE=full, else `brief`.
template <class T>
T sized(T brief, T full) {
  return full_size() ? full : brief;
}

}  // namespace rhea::test
