// The descriptor and page tables a kernel is entered with, and the registers that go with them.
#pragma once

#include "util/error.h"
#include "vmm/boot/boot_memory.h"
#include "vmm/boot/boot_state.h"

namespace rhea::vmm {

/// 64-bit mode with the first 4 GiB mapped to themselves by 2 MiB pages, flat segments with the
/// selectors that the Linux boot protocol wants (code 0x10, data 0x18), interrupts off.
/// Writes the GDT and the page tables; rip and the general registers are left to the caller.
Result<BootState> set_up_long_mode(BootMemory& memory);

/// 32-bit protected mode without paging, flat segments. Writes the GDT.
Result<BootState> set_up_protected_mode(BootMemory& memory);

}  // namespace rhea::vmm
