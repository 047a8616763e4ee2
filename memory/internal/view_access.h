// RAM-only access to one view: nothing here ever calls a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/flat_view.h"
#include "memory/guest_addr.h"
#include "util/error.h"

namespace rhea::memory::internal {

enum class RamAccess : uint8_t { kRead, kWrite };

/// Calls `f(range, address, size)` for each contiguous piece of [address, address + size), all of
/// which must be RAM. Errors: kInvalidArgument naming the first address that is not; `f` may have
/// been called for what lies before it.
template <class F>
Result<void> for_each_ram_piece(const FlatView& view, uint64_t address, uint64_t size,
                                RamAccess access, F&& f) {
  if (size != 0 && address + (size - 1) < address) {
    return fail(ErrorKind::kInvalidArgument, "guest range {:#x}+{:#x} wraps around", address, size);
  }
  while (size > 0) {
    const FlatRange* range = view.find(address);
    if (range == nullptr || range->ram == nullptr) {
      return fail(ErrorKind::kInvalidArgument, "guest address {:#x} is not RAM", address);
    }
    if (access == RamAccess::kWrite && range->read_only) {
      return fail(ErrorKind::kInvalidArgument, "guest address {:#x} is read-only", address);
    }
    const uint64_t piece = std::min(size, range->end() - address);
    TRY(f(*range, address, piece));
    address += piece;
    size -= piece;
  }
  return ok();
}

/// All or nothing: see AddressSpace::read_ram.
Result<void> read_ram(const FlatView& view, GuestAddr address, std::span<std::byte> data);
Result<void> write_ram(const FlatView& view, GuestAddr address, std::span<const std::byte> data);
/// Marks what somebody else (the kernel, a thread pool) has written there.
void mark_dirty(const FlatView& view, GuestAddr address, uint64_t size_bytes);

}  // namespace rhea::memory::internal
