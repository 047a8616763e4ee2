// RingMemory: which of the process's registered memory one ring has pinned, and where.
#pragma once

#include <liburing.h>

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "util/error.h"
#include "util/internal/memory_ranges.h"

namespace rhea::internal {

/// A ring's table of fixed buffers: a slot for each GiB of memory, the most that the kernel takes
/// as one, filled when a transfer first touches it.
///
/// Thread: the ring's. Owns: the ring's slots, and with them a reference to each range's keeper.
/// Invariants: a slot is emptied only when no transfer that names it is under way, so the kernel
/// never meets one that means something else than when it was named, however late it gets it.
class RingMemory {
 public:
  /// A range as this ring knows it.
  struct Range;
  /// What a transfer names; nothing if `range` is null.
  struct Place {
    Range* range = nullptr;
    uint16_t slot = 0;
  };

  /// `ring` outlives it.
  explicit RingMemory(io_uring& ring);
  ~RingMemory();
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;

  /// Takes over memory_ranges(): what is gone is let go of when its last transfer has ended.
  void update();

  /// The place of [address, address + length), to be given back with leave(). No place: it is not
  /// in one slot.
  Place enter(const void* address, size_t length) {
    if (ranges_.empty()) return {};
    return find(reinterpret_cast<uintptr_t>(address), length);
  }
  void leave(Range& range);

 private:
  static constexpr size_t kSlots = 1024;
  using Ranges = std::vector<std::unique_ptr<Range>>;

  Place find(uintptr_t address, size_t length);
  bool fill(Range& range, size_t chunk);
  Result<int> fill_slot(Range& range, size_t chunk);
  Result<void> make_table();
  bool empty_slots(Range& range);

  io_uring& ring_;
  bool has_table_ = false;
  Ranges ranges_;    // that transfers may name
  Ranges retiring_;  // that some still name
  std::bitset<kSlots> slots_;
};

}  // namespace rhea::internal
