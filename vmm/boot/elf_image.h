// ElfImage: what of a 64-bit x86 ELF kernel a PVH loader needs, bounds checked.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/guest_addr.h"
#include "util/error.h"
#include "vmm/boot/boot_memory.h"

namespace rhea::vmm {

/// A piece of the file that goes to RAM; [address + file_size, address + memory_size) is zeroed.
struct ElfSegment {
  memory::GuestAddr address;
  uint64_t file_offset = 0;
  uint64_t file_size = 0;
  uint64_t memory_size = 0;
};

/// Invariants: at least one segment; each lies inside the file and does not wrap around the address
/// space; `pvh_entry` is inside the memory of one of them.
struct ElfImage {
  std::vector<ElfSegment> segments;
  uint32_t pvh_entry = 0;

  /// Errors: kCorrupt for a broken file, kUnsupported for one of the wrong kind.
  static Result<ElfImage> parse(const ByteSource& file);
};

}  // namespace rhea::vmm
