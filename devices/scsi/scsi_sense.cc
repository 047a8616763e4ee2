#include "devices/scsi/scsi_sense.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace rhea::devices {
namespace {

constexpr uint8_t kFixedCurrent = 0x70, kDescriptorCurrent = 0x72;
constexpr uint8_t kValid = 0x80;

template <size_t N>
size_t copy(const std::array<uint8_t, N>& sense, size_t size, std::span<std::byte> out) noexcept {
  const auto bytes = std::as_bytes(std::span(sense)).first(std::min(size, out.size()));
  std::ranges::copy(bytes, out.begin());
  return bytes.size();
}

/// The lowest bytes of `value`, the highest of them first.
void put_be(std::span<uint8_t> out, uint64_t value) noexcept {
  for (size_t i = out.size(); i-- != 0; value >>= 8) out[i] = static_cast<uint8_t>(value);
}

}  // namespace

size_t write_fixed_sense(const ScsiSense& sense, std::span<std::byte> out) noexcept {
  std::array<uint8_t, kFixedSenseSize> data{};
  data[0] = kFixedCurrent;
  data[2] = std::to_underlying(sense.key);
  // A block that the field has no room for is not told: half a number would be another block.
  if (sense.information && *sense.information <= std::numeric_limits<uint32_t>::max()) {
    data[0] |= kValid;
    put_be(std::span(data).subspan(3, 4), *sense.information);
  }
  data[7] = kFixedSenseSize - 8;
  data[12] = sense.asc;
  data[13] = sense.ascq;
  return copy(data, data.size(), out);
}

size_t write_descriptor_sense(const ScsiSense& sense, std::span<std::byte> out) noexcept {
  constexpr size_t kHeader = 8, kInformation = 12;
  std::array<uint8_t, kHeader + kInformation> data{};
  data[0] = kDescriptorCurrent;
  data[1] = std::to_underlying(sense.key);
  data[2] = sense.asc;
  data[3] = sense.ascq;
  if (!sense.information) return copy(data, kHeader, out);
  data[7] = kInformation;
  data[kHeader + 1] = kInformation - 2;
  data[kHeader + 2] = kValid;
  put_be(std::span(data).subspan(kHeader + 4, 8), *sense.information);
  return copy(data, data.size(), out);
}

}  // namespace rhea::devices
