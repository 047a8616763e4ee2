// Input: a fuzz input as a stream of numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace rhea::test {

/// Reads the input, and zeros behind its end.
class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool empty() const { return bytes_.empty(); }
  uint8_t byte() {
    if (bytes_.empty()) return 0;
    const uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  /// Little endian.
  uint32_t word() {
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 32; shift += 8) value |= uint32_t{byte()} << shift;
    return value;
  }
  /// One of `choices`.
  template <class T, size_t N>
  const T& pick(const std::array<T, N>& choices) {
    return choices[byte() % N];
  }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace rhea::test
