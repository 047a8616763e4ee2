// What a guest is told of its processor that differs from what KVM offers.
#include "vmm/kvm/kvm_cpuid.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace rhea::vmm;

namespace {

const SmpConfig kOneCpu{.cpus = 1, .max_cpus = 1, .sockets = 1, .cores = 1, .threads = 1};

kvm_cpuid_entry2 all_bits(uint32_t function) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.eax = entry.ebx = entry.ecx = entry.edx = ~0U;
  return entry;
}

}  // namespace

TEST_CASE("CpuidTable: a guest is not offered virtualisation of its own", "[kvm-cpuid]") {
  const auto table =
      CpuidTable::of({all_bits(0x1), all_bits(0x80000001), all_bits(0x8000000a)}, kOneCpu);
  const auto entries = table.for_vcpu(0);
  REQUIRE(entries.size() == 3);
  CHECK(entries[0].ecx == ~(1U << 5));  // VMX
  CHECK(entries[1].ecx == ~(1U << 2));  // SVM
  CHECK(entries[1].edx == ~0U);         // and nothing else
  for (const uint32_t reg : {entries[2].eax, entries[2].ebx, entries[2].ecx, entries[2].edx}) {
    CHECK(reg == 0);
  }
}
