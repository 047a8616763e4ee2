// IoHandler: what a device implements to be read and written by the guest.
#pragma once

#include <cstdint>

namespace rhea::memory {

/// Which accesses a region takes. An access outside [min_size, max_size], or misaligned where
/// `unaligned` is false, is refused: reads give all-ones, writes are dropped, both are traced.
/// An accepted access is split or widened to [impl_min, impl_max] before the handler sees it.
/// Units: bytes, powers of two up to 8.
struct IoAccess {
  uint8_t min_size = 1;
  uint8_t max_size = 8;
  uint8_t impl_min = 1;
  uint8_t impl_max = 8;
  bool unaligned = true;
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
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  /// `offset` is within the region, `size` within the limits; the value is zero-extended.
  virtual uint64_t io_read(uint64_t offset, unsigned size) = 0;
  virtual void io_write(uint64_t offset, uint64_t value, unsigned size) = 0;
};

}  // namespace rhea::memory
