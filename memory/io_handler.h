// IoHandler: what a device implements to be read and written by the guest.
#pragma once

#include <cstdint>

namespace rhea::memory {

/// Which accesses a region takes. An access outside [min_size, max_size], or misaligned where
/// `unaligned` is false, is refused: reads give all-ones, writes are dropped, both are traced.
/// An accepted access is split or widened to [impl_min, impl_max] before the handler sees it:
///  - wider than impl_max: several accesses of impl_max, the lowest offset first, little endian;
///  - narrower than impl_min: the aligned access of impl_min around it (two if it straddles a
///    boundary). A read takes its bytes out of what came. A write puts its bytes in their place
///    with zeros around them: reading the others first could have side effects. A device that
///    cannot live with that sets min_size instead.
/// Units: bytes, powers of two up to 8; the region's size is a multiple of impl_min.
struct IoAccess {
  uint8_t min_size = 1;
  uint8_t max_size = 8;
  uint8_t impl_min = 1;
  uint8_t impl_max = 8;
  bool unaligned = true;
  friend bool operator==(const IoAccess&, const IoAccess&) = default;
};

/// Who holds what while a handler runs.
enum class IoLocking : uint8_t {
  kBql,       ///< the dispatcher takes the BQL first (almost every device)
  kLockFree,  ///< called with no lock, by several threads at once
};

/// The guest-facing side of a device.
/// Thread: a vCPU or main (qtest), inside an RCU read section; with the BQL held unless the region
/// is lock-free (a BQL handler starts with `bql.assert_held()`, which also teaches the analysis).
/// A handler may wait for nothing but the BQL: no grace period, poll, drain or coroutine.
/// Once its region has left the tree (the outermost MemoryTransaction has ended), a BQL handler is
/// not called any more. A lock-free one may be, until the readers of the older view have left.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  /// `offset` is within the region, `size` within the limits; the value is zero-extended.
  virtual uint64_t io_read(uint64_t offset, unsigned size) = 0;
  virtual void io_write(uint64_t offset, uint64_t value, unsigned size) = 0;
};

}  // namespace rhea::memory
