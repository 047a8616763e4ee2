// How an access of the guest becomes accesses that a handler takes.
#pragma once

#include <cstdint>

#include "memory/io_handler.h"

namespace rhea::memory::internal {

/// Whether the region takes an access of this size at this offset at all.
bool accepts(const IoAccess& access, uint64_t offset, unsigned size) noexcept;

/// The widest access, of at most `remaining` bytes, with which a copy through the region may go on
/// at `offset`.
unsigned copy_width(const IoAccess& access, uint64_t offset, uint64_t remaining) noexcept;

/// An accepted access, split or widened to what the handler implements.
uint64_t read_split(IoHandler& handler, const IoAccess& access, uint64_t offset, unsigned size);
void write_split(IoHandler& handler, const IoAccess& access, uint64_t offset, uint64_t value,
                 unsigned size);

/// All bits of an access of `size` bytes.
constexpr uint64_t ones(unsigned size) {
  return size >= 8 ? ~uint64_t{0} : (uint64_t{1} << size * 8) - 1;
}

}  // namespace rhea::memory::internal
