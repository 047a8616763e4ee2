// Where the loaders put what they hand to a kernel: conventional RAM, clear of the real-mode
// vectors and of the page at 0x9f000 that kernels treat as BIOS data. All of it is free for the
// kernel to reuse once it has read it.
#pragma once

#include "memory/guest_addr.h"

namespace rhea::vmm::low_memory {

using memory::GuestAddr;

inline constexpr GuestAddr kGdt{0x500};
inline constexpr GuestAddr kStartInfo{0x6000};  // PVH: start info, module list, memory map
inline constexpr GuestAddr kZeroPage{0x7000};   // bzImage
inline constexpr GuestAddr kPageTables{0x9000};
inline constexpr GuestAddr kCommandLine{0x2'0000};
inline constexpr uint64_t kCommandLineSize = 0x1'0000;
inline constexpr uint64_t kEnd = kCommandLine.value + kCommandLineSize;

}  // namespace rhea::vmm::low_memory
