// A vCPU's state out of KVM and into it.
#pragma once

#include "util/error.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/vcpu_check.h"
#include "vmm/kvm/vcpu_state.h"

namespace rhea::vmm {

// Thread: main with the BQL, the vCPU standing still: between two instructions, its port and MMIO
// accesses finished (VcpuThread::complete_io()).

/// Errors: KVM refuses; the message names what was read.
Result<VcpuState> read_vcpu(const KvmVm& vm, const KvmVcpu& vcpu);

/// What check_vcpu() needs to know. Errors: KVM does not say.
Result<VcpuLimits> read_vcpu_limits(const KvmVm& vm, const KvmVcpu& vcpu);

/// Sets a checked state. Errors: KVM refuses; the message names the group, and for an MSR its
/// index. The vCPU is then fit for a reset only.
Result<void> write_vcpu(const KvmVm& vm, const KvmVcpu& vcpu, const VcpuState& state);

}  // namespace rhea::vmm
