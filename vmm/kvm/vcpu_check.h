// What a vCPU's saved state may be, on this host and in this machine.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "util/error.h"
#include "vmm/kvm/kvm_xsave.h"
#include "vmm/kvm/vcpu_state.h"

namespace rhea::vmm {

/// What a host has and a machine shows of it, for one vCPU.
struct VcpuLimits {
  std::vector<kvm_cpuid_entry2> cpuid;  ///< what the guest sees
  uint32_t tsc_khz = 0;                 ///< 0: KVM can not say
  bool scales_tsc = false;
  bool has_xcrs = false;
  size_t most_xsave_bytes = kLeastXsaveBytes;
  uint64_t xfeatures = 0;  ///< what XCR0 and an XSAVE area may name
  std::set<uint32_t> msrs;
};

/// All that can be said against `state` without touching the vCPU: values that no vCPU has, and
/// what this host or this machine does not have. Any thread.
/// Errors: kCorrupt, kUnsupported; the message names group, field and value.
Result<void> check_vcpu(const VcpuLimits& limits, const VcpuState& state);

/// Of a vCPU's CPUID what is saved and compared.
std::vector<CpuidState> cpuid_state(const std::vector<kvm_cpuid_entry2>& entries);

/// Whether a guest that was promised `source` sees the same here. Leaves that read as zero may as
/// well be missing. Errors: kUnsupported; names the leaf, the register and the bits.
Result<void> compare_cpuid(const std::vector<CpuidState>& source,
                           const std::vector<kvm_cpuid_entry2>& here);

/// What all vCPUs show, in a line that is equal where compare_cpuid() finds no difference: the
/// registers that tell processors apart, of the first vCPU, and a checksum of all:
/// "cpuid.1.eax=a20f10 ... cpuid=1b3c5d7e".
std::string describe_cpuid(std::span<const std::vector<kvm_cpuid_entry2>> vcpus);

}  // namespace rhea::vmm
