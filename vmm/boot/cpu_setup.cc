#include "vmm/boot/cpu_setup.h"

#include <array>
#include <cstdint>

#include "util/endian.h"
#include "vmm/boot/low_memory.h"

namespace rhea::vmm {
namespace {

using memory::GuestAddr;

constexpr uint64_t kCr0Protected = 1u << 0;
constexpr uint64_t kCr0ExtensionType = 1u << 4;  // hard-wired to 1
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1u << 5;
constexpr uint64_t kEferLongModeEnable = 1u << 8;
constexpr uint64_t kEferLongModeActive = 1u << 10;

constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;

constexpr uint8_t kTypeCode = 0xb;  // execute, read, accessed
constexpr uint8_t kTypeData = 0x3;  // read, write, accessed
constexpr uint8_t kTypeBusyTss = 0xb;
constexpr uint32_t kTssLimit = 0x67;

constexpr uint64_t kEntryPresent = 1u << 0;
constexpr uint64_t kEntryWritable = 1u << 1;
constexpr uint64_t kEntryLargePage = 1u << 7;
constexpr uint64_t kPageSize = 0x1000;
constexpr uint64_t kLargePageSize = 0x20'0000;
constexpr size_t kEntries = 512;
constexpr uint64_t kMappedGiB = 4;

using PageTable = std::array<le64, kEntries>;
/// Two null slots, code, data, and a TSS descriptor, which is two slots wide in long mode.
using Gdt = std::array<le64, 6>;

SegmentState flat_segment(uint16_t selector, uint8_t type) {
  return {.limit = 0xffff'ffff,
          .selector = selector,
          .type = type,
          .present = true,
          .code_or_data = true,
          .big = true,
          .granularity = true};
}

/// The descriptor for `segment`; all of ours have base 0 and DPL 0.
uint64_t descriptor_of(const SegmentState& segment) {
  const uint64_t limit = segment.granularity ? segment.limit >> 12 : segment.limit;
  const auto bit = [](bool set, unsigned position) { return uint64_t{set} << position; };
  return (limit & 0xffff) | uint64_t{segment.type} << 40 | bit(segment.code_or_data, 44) |
         bit(segment.present, 47) | ((limit >> 16) & 0xf) << 48 | bit(segment.long_mode, 53) |
         bit(segment.big, 54) | bit(segment.granularity, 55);
}

Result<BootState> set_up_segments(BootMemory& memory, CpuMode mode) {
  BootState state;
  state.mode = mode;
  state.code = flat_segment(kCodeSelector, kTypeCode);
  state.code.long_mode = mode == CpuMode::kLong64;
  state.code.big = mode == CpuMode::kProtected32;
  state.data = flat_segment(kDataSelector, kTypeData);
  state.task = {
      .limit = kTssLimit, .selector = kTaskSelector, .type = kTypeBusyTss, .present = true};
  const Gdt gdt{
      0ul, 0ul, descriptor_of(state.code), descriptor_of(state.data), descriptor_of(state.task),
      0ul};
  TRY(memory.write_object(low_memory::kGdt, gdt));
  state.gdt = {.base = low_memory::kGdt.value, .limit = sizeof gdt - 1};
  return state;
}

Result<void> write_page_tables(BootMemory& memory) {
  constexpr GuestAddr kTop = low_memory::kPageTables;
  constexpr GuestAddr kPointers = kTop + kPageSize;
  constexpr GuestAddr kDirectories = kPointers + kPageSize;
  PageTable top{}, pointers{};
  top[0] = kPointers.value | kEntryPresent | kEntryWritable;
  for (uint64_t gib = 0; gib < kMappedGiB; ++gib) {
    const GuestAddr table = kDirectories + gib * kPageSize;
    pointers[gib] = table.value | kEntryPresent | kEntryWritable;
    PageTable directory{};
    for (uint64_t i = 0; i < kEntries; ++i) {
      directory[i] =
          (gib * kEntries + i) * kLargePageSize | kEntryPresent | kEntryWritable | kEntryLargePage;
    }
    TRY(memory.write_object(table, directory));
  }
  TRY(memory.write_object(kPointers, pointers));
  return memory.write_object(kTop, top);
}

}  // namespace

Result<BootState> set_up_long_mode(BootMemory& memory) {
  BootState state = TRY(set_up_segments(memory, CpuMode::kLong64));
  TRY(write_page_tables(memory));
  state.cr0 = kCr0Protected | kCr0ExtensionType | kCr0Paging;
  state.cr3 = low_memory::kPageTables.value;
  state.cr4 = kCr4Pae;
  state.efer = kEferLongModeEnable | kEferLongModeActive;
  return state;
}

Result<BootState> set_up_protected_mode(BootMemory& memory) {
  BootState state = TRY(set_up_segments(memory, CpuMode::kProtected32));
  state.cr0 = kCr0Protected | kCr0ExtensionType;
  return state;
}

}  // namespace rhea::vmm
