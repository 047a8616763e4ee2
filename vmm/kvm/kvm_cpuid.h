// CPUID as the guest sees it: what KVM supports, with this machine's topology.
#pragma once

#include <linux/kvm.h>

#include <vector>

#include "util/error.h"
#include "vmm/apic_topology.h"
#include "vmm/config.h"

namespace rhea::vmm {

/// The CPUID entries of `-cpu host` for every vCPU: all that KVM supports but VMX and SVM.
/// Thread: any. The list is made once; per vCPU only the APIC id differs.
class CpuidTable {
 public:
  /// Errors: KVM_GET_SUPPORTED_CPUID fails.
  static Result<CpuidTable> create(int kvm_device_fd, const SmpConfig& smp);
  /// Of a host whose KVM supports this.
  static CpuidTable of(std::vector<kvm_cpuid_entry2> supported, const SmpConfig& smp);

  /// The entries for vCPU `cpu_index`.
  std::vector<kvm_cpuid_entry2> for_vcpu(unsigned cpu_index) const;

 private:
  std::vector<kvm_cpuid_entry2> entries_;
  SmpConfig smp_;
};

/// KVM_SET_CPUID2.
Result<void> set_cpuid(int vcpu_fd, const std::vector<kvm_cpuid_entry2>& entries);

}  // namespace rhea::vmm
