// FlatView: what one address space looks like right now, as sorted ranges.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/listener.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/bql.h"
#include "util/fd.h"

namespace rhea::memory {

/// A piece of one region: all that a reader needs, so that it never looks at the tree.
struct FlatRange {
  uint64_t base = 0;
  uint64_t size_bytes = 0;
  const MemoryRegion* region = nullptr;
  uint64_t offset_in_region = 0;
  RamBlock* ram = nullptr;  ///< null for I/O
  uint64_t offset_in_ram = 0;
  IoHandler* handler = nullptr;  ///< null for RAM
  IoAccess access;
  IoLocking locking = IoLocking::kBql;
  bool read_only = false;
  bool has_doorbells = false;

  bool contains(uint64_t address) const { return address - base < size_bytes; }
  /// One past the last address.
  uint64_t end() const { return base + size_bytes; }
  std::byte* host(uint64_t address) const { return ram->host() + offset_in_ram + (address - base); }
  friend bool operator==(const FlatRange&, const FlatRange&) = default;
};

/// A doorbell at its address.
struct FlatDoorbell {
  uint64_t address = 0;
  MemoryRegion::Doorbell doorbell;
  const FlatRange* range = nullptr;  ///< in the same view
  std::shared_ptr<const Fd> event;   ///< the region's duplicate of doorbell.fd
  /// Whether a listener need not hear of the difference.
  bool same_as(const FlatDoorbell& other) const {
    return address == other.address && doorbell == other.doorbell && event == other.event &&
           range->region == other.range->region;
  }
};

/// An immutable picture of an address space.
///
/// Thread: any. Owns: strong references to every RamBlock in it and to the owner of every region
/// in it, so whoever holds the view (or is in a read section that loaded it) may use them all.
/// Invariants: ranges are sorted, disjoint, not empty, and adjacent compatible ones are merged;
/// doorbells are sorted by address. Lifetime: the last reference may go on any registered thread;
/// the view itself is destroyed by the RCU thread a grace period later, owners and RAM with it.
class FlatView : public std::enable_shared_from_this<FlatView> {
 public:
  FlatView(const FlatView&) = delete;
  FlatView& operator=(const FlatView&) = delete;

  /// The view of the tree below `root` as it is now.
  static std::unique_ptr<const FlatView> build(MemoryRegion& root) REQUIRES(bql);
  /// Shared, destroyed through RCU: the only form in which a view is published.
  static std::shared_ptr<const FlatView> publishable(std::unique_ptr<const FlatView> view);

  /// The range that holds `address`, or null. Each thread remembers its last hits.
  const FlatRange* find(uint64_t address) const noexcept;
  /// How many of `limit` bytes from `address`, where nothing is, are unassigned too.
  uint64_t gap_bytes(uint64_t address, uint64_t limit) const noexcept;
  /// The eventfd to signal for this write, or -1.
  int doorbell_for(uint64_t address, uint64_t value, unsigned size) const noexcept;

  std::span<const FlatRange> ranges() const noexcept { return ranges_; }
  std::span<const FlatDoorbell> doorbells() const noexcept { return doorbells_; }
  /// Whether nobody could tell this view from `other`.
  bool same_as(const FlatView& other) const;

 private:
  friend class FlatViewBuilder;
  FlatView();

  const uint64_t id_;  // never used twice: what a thread's last-hit cache is keyed by
  std::vector<FlatRange> ranges_;
  std::vector<FlatDoorbell> doorbells_;
  std::vector<std::shared_ptr<const void>> pins_;
};

/// The listener's form of a range.
Section make_section(const FlatRange& range);

}  // namespace rhea::memory
