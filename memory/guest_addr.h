// GuestAddr: an address as the guest sees it, never to be mixed with a host pointer or an offset.
#pragma once

#include <compare>
#include <cstdint>

namespace rhea::memory {

/// A guest-physical (or I/O port) address. Arithmetic wraps never: callers check first.
struct GuestAddr {
  uint64_t value = 0;

  friend constexpr auto operator<=>(GuestAddr, GuestAddr) = default;
  friend constexpr GuestAddr operator+(GuestAddr address, uint64_t offset) {
    return GuestAddr{address.value + offset};
  }
  /// The distance from `from` up to `to`.
  friend constexpr uint64_t operator-(GuestAddr to, GuestAddr from) {
    return to.value - from.value;
  }
};

}  // namespace rhea::memory
