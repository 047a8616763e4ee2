#include "vmm/apic_topology.h"

#include <bit>

namespace rhea::vmm {
namespace {

unsigned field_width(unsigned count) { return static_cast<unsigned>(std::bit_width(count - 1)); }

}  // namespace

ApicTopology ApicTopology::of(const SmpConfig& smp) {
  return ApicTopology{.thread_bits = field_width(smp.threads), .core_bits = field_width(smp.cores)};
}

uint32_t ApicTopology::apic_id(const SmpConfig& smp, unsigned cpu_index) const {
  const unsigned thread = cpu_index % smp.threads;
  const unsigned core = cpu_index / smp.threads % smp.cores;
  const unsigned socket = cpu_index / smp.threads / smp.cores;
  return (((socket << core_bits) | core) << thread_bits) | thread;
}

}  // namespace rhea::vmm
