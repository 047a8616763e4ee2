// The ACPI tables of one machine, ready to be written to guest RAM.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/guest_addr.h"
#include "util/error.h"
#include "vmm/boot/e820.h"

namespace rhea::vmm {

struct AcpiConfig {
  MemoryLayout layout;
  std::vector<uint32_t> apic_ids;      ///< of the CPUs that are present, in CPU order
  std::array<bool, 2> serial_ports{};  ///< whether COM1 and COM2 exist
};

/// Where a table lies, for who wants to look at it alone.
struct AcpiTable {
  std::string signature;
  memory::GuestAddr address;
  uint64_t size_bytes = 0;
};

/// Invariants: `bytes` belongs at `base`, which is also the RSDP's address, and fits
/// pc::kAcpiTablesSize.
struct AcpiTables {
  memory::GuestAddr base;
  std::vector<std::byte> bytes;
  std::vector<AcpiTable> tables;  ///< without the RSDP
};

/// Errors: kInvalidArgument if there are so many CPUs that the tables do not fit.
Result<AcpiTables> build_acpi_tables(const AcpiConfig& config);

}  // namespace rhea::vmm
