// Loading a bzImage by the 64-bit Linux/x86 boot protocol (Documentation/arch/x86/boot.rst).
#pragma once

#include <cstddef>
#include <span>

#include "util/endian.h"
#include "util/error.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/boot/boot_state.h"
#include "vmm/boot/load_kernel.h"

namespace rhea::vmm {

/// The setup header, at offset 0x1f1 of the image and of the zero page; fields up to version 2.15.
struct SetupHeader {
  uint8_t setup_sects = 0;
  le16 root_flags;
  le32 syssize;
  le16 ram_size;
  le16 vid_mode;
  le16 root_dev;
  le16 boot_flag;
  uint8_t jump_opcode = 0;
  uint8_t jump_offset = 0;  ///< from 0x202 to the end of the header
  le32 header;
  le16 version;
  le32 realmode_switch;
  le16 start_sys_seg;
  le16 kernel_version;
  uint8_t type_of_loader = 0;
  uint8_t loadflags = 0;
  le16 setup_move_size;
  le32 code32_start;
  le32 ramdisk_image;
  le32 ramdisk_size;
  le32 bootsect_kludge;
  le16 heap_end_ptr;
  uint8_t ext_loader_ver = 0;
  uint8_t ext_loader_type = 0;
  le32 cmd_line_ptr;
  le32 initrd_addr_max;
  le32 kernel_alignment;
  uint8_t relocatable_kernel = 0;
  uint8_t min_alignment = 0;
  le16 xloadflags;
  le32 cmdline_size;
  le32 hardware_subarch;
  le64 hardware_subarch_data;
  le32 payload_offset;
  le32 payload_length;
  le64 setup_data;
  le64 pref_address;
  le32 init_size;
  le32 handover_offset;
  le32 kernel_info_offset;
};
inline constexpr size_t kSetupHeaderOffset = 0x1f1;
static_assert(sizeof(SetupHeader) == 0x26c - kSetupHeaderOffset);

/// How much of an image's beginning tells what it is and how to load it.
inline constexpr size_t kBzImageHeadSize = kSetupHeaderOffset + sizeof(SetupHeader);

/// One entry of the zero page's memory map.
struct ZeroPageRange {
  le64 base;
  le64 size;
  le32 type;
};
static_assert(sizeof(ZeroPageRange) == 20);

/// struct boot_params as far as a loader without a screen fills it; the rest stays zero.
struct ZeroPage {
  std::array<uint8_t, 0x70> screen_and_tables{};
  le64 acpi_rsdp_addr;  // 0x70
  std::array<uint8_t, 0x1e8 - 0x78> firmware{};
  uint8_t e820_entries = 0;  // 0x1e8
  std::array<uint8_t, kSetupHeaderOffset - 0x1e9> reserved{};
  SetupHeader header;  // 0x1f1
  std::array<uint8_t, 0x2d0 - 0x26c> more{};
  std::array<ZeroPageRange, 128> e820{};  // 0x2d0
  std::array<uint8_t, 0x1000 - 0xcd0> tail{};
};
static_assert(sizeof(ZeroPage) == 0x1000);

/// Whether `head`, the beginning of a file, carries the boot protocol's two signatures.
bool is_bzimage(std::span<const std::byte> head) noexcept;

/// Validates and loads; see load_kernel().
Result<BootState> load_bzimage(BootMemory& memory, const BootInputs& inputs);

}  // namespace rhea::vmm
