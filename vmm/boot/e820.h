// Where guest RAM lies, and the memory map that the guest is told.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/guest_addr.h"
#include "util/error.h"

namespace rhea::vmm {

/// How the machine's RAM and the 64-bit PCI window share the guest's address space.
/// Units: bytes.
struct MemoryLayout {
  uint64_t below_4g = 0;  ///< RAM from address 0
  uint64_t above_4g = 0;  ///< RAM from 4 GiB
  memory::GuestAddr pci_window64;
  uint64_t pci_window64_size = 0;  ///< 0: the CPU's addresses end before there is room for one

  /// Splits `ram_bytes` for a CPU with `address_bits` physical address bits (32 to 52).
  /// Errors: kInvalidArgument if the RAM does not fit.
  static Result<MemoryLayout> create(uint64_t ram_bytes, unsigned address_bits);
};

/// Range types as the E820 interface and ACPI number them. [ACPI-6.4 15.1]
enum class E820Type : uint32_t { kRam = 1, kReserved = 2 };

struct E820Range {
  memory::GuestAddr base;
  uint64_t size_bytes = 0;
  E820Type type = E820Type::kRam;
  friend bool operator==(const E820Range&, const E820Range&) = default;
};

/// The memory map of `layout`: ascending, without overlap and without empty ranges.
std::vector<E820Range> e820_map(const MemoryLayout& layout);

}  // namespace rhea::vmm
