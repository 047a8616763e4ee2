#include "devices/scsi/scsi_cdb.h"

#include <array>
#include <utility>

namespace rhea::devices {
namespace {

/// Where a number is, and how many bytes it has.
struct Field {
  uint8_t at = 0, bytes = 0;
};

struct Layout {
  uint8_t size = 0;
  Field lba{}, blocks{}, list{};
};

constexpr Layout kSixBytes{6, {1, 3}, {4, 1}, {4, 1}};
constexpr Layout kTenBytes{10, {2, 4}, {7, 2}, {7, 2}};
constexpr Layout kTwelveBytes{12, {2, 4}, {6, 4}, {6, 4}};
constexpr Layout kSixteenBytes{16, {2, 8}, {10, 4}, {10, 4}};
/// As READ(32) has them; the length is in the CDB.
constexpr Layout kVariable{0, {12, 8}, {28, 4}, {28, 4}};

/// By the opcode's group, its three high bits. [SPC-4 4.2]
constexpr std::array<Layout, 8> kGroups{kSixBytes,     kTenBytes,    kTenBytes, Layout{},
                                        kSixteenBytes, kTwelveBytes, Layout{},  Layout{}};

constexpr size_t kAdditionalLength = 7, kVariableHeader = 8;

const Layout& layout_of(uint8_t opcode) {
  return opcode == std::to_underlying(ScsiOpcode::kVariableLength) ? kVariable
                                                                   : kGroups[opcode >> 5];
}

}  // namespace

size_t ScsiCdb::size() const noexcept {
  const Layout& layout = layout_of(opcode());
  if (&layout != &kVariable) return layout.size;
  const size_t size = kVariableHeader + bytes_[kAdditionalLength];
  return size % 4 == 0 && size <= bytes_.size() ? size : 0;
}

uint64_t ScsiCdb::be(size_t at, size_t count) const noexcept {
  uint64_t value = 0;
  for (const uint8_t byte : bytes_.subspan(at, count)) value = value << 8 | byte;
  return value;
}

ScsiCdb::Range ScsiCdb::range() const noexcept {
  const Layout& layout = layout_of(opcode());
  Range range{be(layout.lba.at, layout.lba.bytes), be(layout.blocks.at, layout.blocks.bytes)};
  if (layout.size == kSixBytes.size) {
    range.lba &= 0x1f'ffff;  // the high bits were the LUN's
    if (range.blocks == 0) range.blocks = 256;
  }
  return range;
}

uint32_t ScsiCdb::list_length() const noexcept {
  const Field& list = layout_of(opcode()).list;
  return static_cast<uint32_t>(be(list.at, list.bytes));
}

}  // namespace rhea::devices
