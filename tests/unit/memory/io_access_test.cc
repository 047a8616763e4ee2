#include "memory/internal/io_access.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

using namespace rhea::memory;

namespace {

constexpr std::array<uint8_t, 4> kSizes{1, 2, 4, 8};

// A device whose registers are plain bytes: wide accesses are its bytes, little endian.
class Bytes : public IoHandler {
 public:
  uint64_t io_read(uint64_t offset, unsigned size) override {
    note(offset, size);
    uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i) value |= uint64_t{bytes.at(offset + i)} << 8 * i;
    // A careless device answers with more than was asked for.
    return size < 8 ? value | ~uint64_t{0} << size * 8 : value;
  }
  void io_write(uint64_t offset, uint64_t value, unsigned size) override {
    note(offset, size);
    oversized |= size < 8 && value >> size * 8 != 0;
    for (unsigned i = 0; i < size; ++i) {
      bytes.at(offset + i) = static_cast<uint8_t>(value >> 8 * i);
      ++writes.at(offset + i);
    }
  }

  std::array<uint8_t, 32> bytes{};
  std::array<int, 32> writes{};
  unsigned narrowest = 8, widest = 1;
  bool oversized = false, aligned = true;

 private:
  void note(uint64_t offset, unsigned size) {
    aligned &= offset % size == 0;
    narrowest = std::min(narrowest, size);
    widest = std::max(widest, size);
  }
};

// Runs `f` for every size, offset and pair of implementation widths.
template <class F>
void sweep(F&& f) {
  for (const uint8_t impl_min : kSizes) {
    for (const uint8_t impl_max : kSizes) {
      if (impl_min > impl_max) continue;
      for (const unsigned size : kSizes) {
        for (uint64_t offset = 0; offset < 16; ++offset) {
          f(IoAccess{.impl_min = impl_min, .impl_max = impl_max}, offset, size);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("IoAccess: every read gives the bytes at its offset, in accesses of the device's widths",
          "[memory]") {
  sweep([](const IoAccess& access, uint64_t offset, unsigned size) {
    Bytes device;
    for (size_t i = 0; i < device.bytes.size(); ++i) device.bytes[i] = static_cast<uint8_t>(i + 1);
    uint64_t expected = 0;
    for (unsigned i = 0; i < size; ++i) expected |= uint64_t{device.bytes[offset + i]} << 8 * i;
    INFO("impl " << +access.impl_min << ".." << +access.impl_max << " offset " << offset << " size "
                 << size);
    CHECK(internal::read_split(device, access, offset, size) == expected);
    CHECK(device.narrowest >= access.impl_min);
    CHECK(device.widest <= access.impl_max);
    if (size < access.impl_min) CHECK(device.aligned);
  });
}

TEST_CASE("IoAccess: every write puts its bytes at its offset, once, zeros around if widened",
          "[memory]") {
  sweep([](const IoAccess& access, uint64_t offset, unsigned size) {
    Bytes device;
    device.bytes.fill(0xee);
    const uint64_t value = 0x8877665544332211;
    internal::write_split(device, access, offset, value, size);
    bool right = !device.oversized;
    for (uint64_t i = 0; i < device.bytes.size(); ++i) {
      const bool mine = i >= offset && i < offset + size;
      const uint8_t around = device.writes[i] == 0 ? 0xee : 0;
      right &= device.writes[i] <= 1;
      right &= device.bytes[i] == (mine ? static_cast<uint8_t>(value >> 8 * (i - offset)) : around);
      if (size >= access.impl_min) right &= mine == (device.writes[i] == 1);
    }
    INFO("impl " << +access.impl_min << ".." << +access.impl_max << " offset " << offset << " size "
                 << size);
    CHECK(right);
    CHECK(device.narrowest >= access.impl_min);
    CHECK(device.widest <= access.impl_max);
    if (size < access.impl_min) CHECK(device.aligned);
  });
}

TEST_CASE("IoAccess: sizes outside the limits, and misalignment if minded, are refused",
          "[memory]") {
  for (const uint8_t min : kSizes) {
    for (const uint8_t max : kSizes) {
      if (min > max) continue;
      for (const unsigned size : kSizes) {
        for (uint64_t offset = 0; offset < 16; ++offset) {
          for (const bool unaligned : {false, true}) {
            const IoAccess access{.min_size = min, .max_size = max, .unaligned = unaligned};
            const bool wanted =
                min <= size && size <= max && (unaligned || (offset & (size - 1)) == 0);
            CHECK(internal::accepts(access, offset, size) == wanted);
          }
        }
      }
    }
  }
}

TEST_CASE("IoAccess: a copy goes in the widest aligned accesses the region takes", "[memory]") {
  const IoAccess wide{}, narrow{.max_size = 2};
  CHECK(internal::copy_width(wide, 0, 100) == 8);
  CHECK(internal::copy_width(wide, 4, 100) == 4);
  CHECK(internal::copy_width(wide, 1, 100) == 1);
  CHECK(internal::copy_width(wide, 8, 7) == 4);
  CHECK(internal::copy_width(narrow, 0, 100) == 2);
}
