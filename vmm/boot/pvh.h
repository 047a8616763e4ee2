// Loading an ELF kernel by the x86/HVM direct boot ABI (PVH), Xen's docs/misc/pvh.pandoc.
#pragma once

#include <cstddef>
#include <span>

#include "util/endian.h"
#include "util/error.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/boot/boot_state.h"
#include "vmm/boot/load_kernel.h"

namespace rhea::vmm {

/// struct hvm_start_info, version 1.
struct PvhStartInfo {
  le32 magic = kMagic;
  le32 version = 1;
  le32 flags;
  le32 module_count;
  le64 module_list;
  le64 command_line;
  le64 rsdp;
  le64 memory_map;
  le32 memory_map_entries;
  le32 reserved;

  static constexpr uint32_t kMagic = 0x336e'c578;
};
static_assert(sizeof(PvhStartInfo) == 56);

/// struct hvm_modlist_entry.
struct PvhModule {
  le64 address;
  le64 size;
  le64 command_line;
  le64 reserved;
};
static_assert(sizeof(PvhModule) == 32);

/// struct hvm_memmap_table_entry.
struct PvhRange {
  le64 base;
  le64 size;
  le32 type;
  le32 reserved;
};
static_assert(sizeof(PvhRange) == 24);

/// Whether `head`, the beginning of a file, is that of an ELF image.
bool is_elf(std::span<const std::byte> head) noexcept;

/// Validates and loads; see load_kernel().
Result<BootState> load_pvh(BootMemory& memory, const BootInputs& inputs);

}  // namespace rhea::vmm
