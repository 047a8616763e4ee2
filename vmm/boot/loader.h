// What both loaders do the same way.
#pragma once

#include <cstdint>
#include <string_view>

#include "memory/guest_addr.h"
#include "util/error.h"
#include "vmm/boot/boot_memory.h"

namespace rhea::vmm {

/// A piece of guest memory; size 0 if there is none.
struct LoadedRange {
  memory::GuestAddr base;
  uint64_t size_bytes = 0;
};

/// The highest page-aligned place for `initrd` (null: none) within [floor, limit).
/// Errors: kInvalidArgument if there is no room.
Result<LoadedRange> place_initrd(const ByteSource* initrd, uint64_t floor, uint64_t limit);

/// Copies `initrd` to where place_initrd() said.
Result<void> load_initrd(BootMemory& memory, const ByteSource* initrd, LoadedRange place);

/// Errors: kInvalidArgument if the command line is longer than `max` (or than the room kept for
/// it), not counting the terminating zero.
Result<void> check_command_line(std::string_view command_line, uint64_t max);

/// Writes the command line and its terminating zero to low_memory::kCommandLine.
Result<void> write_command_line(BootMemory& memory, std::string_view command_line);

}  // namespace rhea::vmm
