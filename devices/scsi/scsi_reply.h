// ScsiReply: parameter data on its way to the initiator.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "util/check.h"

namespace rhea::devices {

/// Bytes in the order in which a table of the standard has them; numbers are big endian. As long
/// as the longest reply of any unit: more is our own mistake.
class ScsiReply {
 public:
  static constexpr size_t kMostBytes = 1280;

  size_t size() const noexcept { return size_; }
  std::span<const uint8_t> bytes() const noexcept { return std::span(bytes_).first(size_); }

  template <size_t Count>
  void put(uint64_t value) {
    set<Count>(grow(Count), value);
  }
  void put8(uint64_t value) { put<1>(value); }
  void put16(uint64_t value) { put<2>(value); }
  void put24(uint64_t value) { put<3>(value); }
  void put32(uint64_t value) { put<4>(value); }
  void put64(uint64_t value) { put<8>(value); }
  void put_zeros(size_t count) { grow(count); }
  void put_bytes(std::span<const uint8_t> bytes) {
    std::ranges::copy(bytes, room(bytes.size()).begin());
  }
  /// ASCII, cut or padded with spaces to `width`. [SPC-4]
  void put_text(std::string_view text, size_t width) {
    for (size_t i = 0; i < width; ++i) put8(i < text.size() ? static_cast<uint8_t>(text[i]) : ' ');
  }
  /// Zeros to be filled in.
  std::span<uint8_t> room(size_t count) {
    const size_t at = grow(count);
    return std::span(bytes_).subspan(at, count);
  }

  /// Writes over what is there: lengths, once they are known.
  template <size_t Count>
  void set(size_t at, uint64_t value) {
    RHEA_CHECK(at + Count <= size_);
    for (size_t i = Count; i-- != 0; value >>= 8) bytes_[at + i] = static_cast<uint8_t>(value);
  }
  void set8(size_t at, uint64_t value) { set<1>(at, value); }
  void set16(size_t at, uint64_t value) { set<2>(at, value); }
  void set32(size_t at, uint64_t value) { set<4>(at, value); }

 private:
  size_t grow(size_t count) {
    RHEA_CHECK(count <= kMostBytes - size_, "a SCSI reply is too long");
    const size_t at = size_;
    size_ += count;
    return at;
  }

  std::array<uint8_t, kMostBytes> bytes_{};
  size_t size_ = 0;
};

}  // namespace rhea::devices
