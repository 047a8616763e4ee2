// BootState: the registers with which the first vCPU enters a loaded kernel.
#pragma once

#include <cstdint>

namespace rhea::vmm {

/// A segment register with its hidden part, as the processor manuals name the fields.
/// Units: `limit` in bytes, already scaled by the granularity.
struct SegmentState {
  uint64_t base = 0;
  uint32_t limit = 0;
  uint16_t selector = 0;
  uint8_t type = 0;
  bool present = false;
  bool code_or_data = false;  ///< S: clear for system segments (TSS, LDT)
  bool long_mode = false;     ///< L
  bool big = false;           ///< D/B
  bool granularity = false;   ///< G
  friend bool operator==(const SegmentState&, const SegmentState&) = default;
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;
  friend bool operator==(const DescriptorTable&, const DescriptorTable&) = default;
};

enum class CpuMode : uint8_t { kProtected32, kLong64 };

/// What differs from the state after a reset; everything else is zero, DPL included. The GDT and,
/// in long mode, the page tables that it names are in guest RAM by the time a loader returns it.
struct BootState {
  CpuMode mode = CpuMode::kLong64;
  uint64_t rip = 0;
  uint64_t rflags = 0x2;  ///< only the bit that is always set: interrupts are off
  uint64_t rsi = 0;       ///< bzImage: the zero page
  uint64_t rbx = 0;       ///< PVH: the start info
  SegmentState code;
  SegmentState data;  ///< DS, ES, FS, GS and SS
  SegmentState task;  ///< TR
  DescriptorTable gdt;
  DescriptorTable idt;
  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
};

}  // namespace rhea::vmm
