// ApicTopology: which APIC id a CPU has.
#pragma once

#include <cstdint>

#include "vmm/config.h"

namespace rhea::vmm {

/// APIC ids with power-of-two fields for thread and core, as the topology leaves require.
/// [SDM vol. 3, 9.9.1 "Hierarchical Mapping of Shared Resources"]
struct ApicTopology {
  unsigned thread_bits = 0;  ///< width of the SMT field
  unsigned core_bits = 0;    ///< width of the core field

  static ApicTopology of(const SmpConfig& smp);
  uint32_t apic_id(const SmpConfig& smp, unsigned cpu_index) const;
};

}  // namespace rhea::vmm
