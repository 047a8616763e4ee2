// What a PCI bus should look like, worked out naively and apart from the code under test.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "memory/flat_view.h"
#include "util/check.h"

namespace rhea::test {

/// A BAR, as a driver that sizes it sees it, and the regions that it was seen to show.
struct BarModel {
  unsigned index = 0;
  bool io = false;
  bool wide = false;  ///< 64 bits
  uint64_t size_bytes = 0;
  struct Piece {
    uint64_t offset = 0, size_bytes = 0;
    const memory::MemoryRegion* region = nullptr;
    memory::IoHandler* handler = nullptr;
  };
  std::vector<Piece> pieces{};
};

/// A function's configuration space, byte by byte.
class ConfigModel {
 public:
  static constexpr unsigned kBytes = 256;
  static constexpr unsigned kBar0 = 0x10;

  void set_initial(unsigned offset, uint8_t value) { initial_[offset] = value_[offset] = value; }
  void allow(unsigned offset, uint32_t mask) { put(writable_, offset, mask); }
  void allow_clear(unsigned offset, uint32_t mask) { put(clearable_, offset, mask); }
  /// Bits that change by themselves.
  void ignore(unsigned offset, uint32_t mask) { put(ignored_, offset, mask); }

  uint32_t read(unsigned offset, unsigned size) const {
    uint32_t value = 0;
    for (unsigned i = 0; i < size; ++i) value |= uint32_t{value_[offset + i]} << (8 * i);
    return value;
  }
  void write(unsigned offset, uint32_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) {
      const uint32_t byte = value >> (8 * i) & 0xff;
      for (unsigned bit = 1; bit < 0x100; bit <<= 1) store_bit(offset + i, bit, byte & bit);
    }
  }
  void reset() { value_ = initial_; }
  /// Whether `seen`, the dword at `offset`, is what it should be.
  bool agrees(unsigned offset, uint32_t seen) const {
    uint32_t care = 0;
    for (unsigned i = 0; i < 4; ++i) care |= uint32_t{ignored_[offset + i]} << (8 * i);
    return ((seen ^ read(offset, 4)) & ~care) == 0;
  }
  /// Where a BAR is to be seen. Address 0 and the top of the space mean: nowhere.
  std::optional<uint64_t> address_of(const BarModel& bar) const {
    if ((value_[4] & (bar.io ? 1 : 2)) == 0) return std::nullopt;
    uint64_t address = read(kBar0 + 4 * bar.index, 4) & (bar.io ? ~3U : ~15U);
    if (bar.wide) address |= uint64_t{read(kBar0 + 4 * bar.index + 4, 4)} << 32;
    const uint64_t top = bar.io ? 0xffff : bar.wide ? UINT64_MAX : 0xffff'ffff;
    const bool usable = address != 0 && address < top - (bar.size_bytes - 1);
    return usable ? std::optional(address) : std::nullopt;
  }

 private:
  using Bytes = std::array<uint8_t, kBytes>;
  static void put(Bytes& bytes, unsigned offset, uint32_t mask) {
    for (; mask != 0; mask >>= 8) bytes[offset++] = static_cast<uint8_t>(mask);
  }
  void store_bit(unsigned offset, unsigned bit, bool on) {
    uint8_t& byte = value_[offset];
    const bool change = (writable_[offset] & bit) != 0;
    const bool clear = (clearable_[offset] & bit) != 0 && on;
    const bool result = change ? on : (byte & bit) != 0 && !clear;
    byte = static_cast<uint8_t>(result ? byte | bit : byte & ~bit);
  }

  Bytes initial_{}, value_{}, writable_{}, clearable_{}, ignored_{};
};

/// Who answers where in one address space: what was there at power-on, then the BARs, of which the
/// one that was mapped last wins; one that moves keeps its place in that order.
class MapModel {
 public:
  struct Answer {
    const memory::MemoryRegion* region = nullptr;
    uint64_t offset = 0;
    friend bool operator==(const Answer&, const Answer&) = default;
  };

  MapModel(const memory::FlatView& at_power_on, uint64_t space_bytes) : space_bytes_(space_bytes) {
    for (const memory::FlatRange& range : at_power_on.ranges()) board_.push_back(range);
  }

  void set(const BarModel& bar, std::optional<uint64_t> address) {
    const auto entry = std::find_if(mapped_.begin(), mapped_.end(),
                                    [&](const Mapped& other) { return other.bar == &bar; });
    if (!address) {
      if (entry != mapped_.end()) mapped_.erase(entry);
    } else if (entry != mapped_.end()) {
      entry->address = *address;
    } else {
      mapped_.push_front({&bar, *address});
    }
  }

  Answer at(uint64_t address) const {
    if (address >= space_bytes_) return {};
    for (const memory::FlatRange& range : board_) {
      const uint64_t offset = address - range.base;
      if (offset < range.size_bytes) return {range.region, range.offset_in_region + offset};
    }
    for (const Mapped& mapped : mapped_) {
      const uint64_t offset = address - mapped.address;
      for (const BarModel::Piece& piece : mapped.bar->pieces) {
        if (offset - piece.offset < piece.size_bytes) return {piece.region, offset - piece.offset};
      }
    }
    return {};
  }

  /// Between two neighbouring boundaries, of either side, nothing changes: looking at both ends of
  /// each such interval is looking everywhere.
  void check(const memory::FlatView& view) const {
    std::set<uint64_t> edges{0};
    const auto add = [&edges](uint64_t base, uint64_t size) {
      edges.insert(base);
      edges.insert(base + size);
    };
    for (const memory::FlatRange& range : board_) add(range.base, range.size_bytes);
    for (const memory::FlatRange& range : view.ranges()) add(range.base, range.size_bytes);
    for (const Mapped& mapped : mapped_) {
      for (const auto& piece : mapped.bar->pieces) {
        add(mapped.address + piece.offset, piece.size_bytes);
      }
    }
    for (const uint64_t edge : edges) {
      check_at(view, edge);
      check_at(view, edge - 1);
    }
  }

 private:
  struct Mapped {
    const BarModel* bar;
    uint64_t address;
  };

  void check_at(const memory::FlatView& view, uint64_t address) const {
    const memory::FlatRange* range = view.find(address);
    Answer seen;
    if (range != nullptr) seen = {range->region, range->offset_in_region + address - range->base};
    const Answer wanted = at(address);
    RHEA_CHECK(seen == wanted, "{:#x} shows {} at {:#x}, not {} at {:#x}", address,
               seen.region != nullptr ? seen.region->name() : "nothing", seen.offset,
               wanted.region != nullptr ? wanted.region->name() : "nothing", wanted.offset);
  }

  const uint64_t space_bytes_;
  std::vector<memory::FlatRange> board_;
  std::list<Mapped> mapped_;  // the one that wins first
};

}  // namespace rhea::test
