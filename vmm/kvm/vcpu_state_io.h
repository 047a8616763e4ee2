// A vCPU's state out of KVM and into it.
#pragma once

#include "util/error.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/vcpu_state.h"

namespace rhea::vmm {

// Thread: main with the BQL, the vCPU standing still: between two instructions, its port and MMIO
// accesses finished (VcpuThread::complete_io()).

/// Errors: KVM refuses; the message names what was read.
Result<VcpuState> read_vcpu(const KvmVm& vm, const KvmVcpu& vcpu);

/// All that can be said against `state` without touching the vCPU: values that no vCPU has, and
/// what this host or this machine does not have.
/// Errors: kCorrupt, kUnsupported; the message names group, field and value.
Result<void> check_vcpu(const KvmVm& vm, const KvmVcpu& vcpu, const VcpuState& state);

/// Sets a checked state. Errors: KVM refuses; the message names the group, and for an MSR its
/// index. The vCPU is then fit for a reset only.
Result<void> write_vcpu(const KvmVm& vm, const KvmVcpu& vcpu, const VcpuState& state);

/// Whether a guest that was promised `source` sees the same here. Leaves that read as zero may as
/// well be missing. Errors: kUnsupported; names the leaf, the register and the bits.
Result<void> compare_cpuid(const std::vector<CpuidState>& source,
                           const std::vector<kvm_cpuid_entry2>& here);

}  // namespace rhea::vmm
