// The model-specific registers of a vCPU: which there are, and many of them in one call.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "util/error.h"

namespace rhea::vmm {

namespace msr {
// [SDM vol. 4, 2.1 architectural MSRs]; kvmclock's numbers are KVM's own.
inline constexpr uint32_t kTsc = 0x10;
inline constexpr uint32_t kTscAdjust = 0x3b;
inline constexpr uint32_t kMachineCheckCapabilities = 0x179;
inline constexpr uint32_t kMiscEnable = 0x1a0;
inline constexpr uint32_t kTscDeadline = 0x6e0;
inline constexpr uint32_t kKvmClock = 0x4b56'4d01;
}  // namespace msr

/// What KVM_GET_MSR_INDEX_LIST names.
Result<std::vector<uint32_t>> msr_indices(int kvm_device_fd);

/// Every register that this vCPU has and that is its state, in the order in which they are to be
/// set: the TSC before the deadline that is compared with it. Those of msr_indices(), the MTRRs
/// and the machine-check banks, which KVM keeps without naming them; not those whose store has an
/// effect on the guest's memory (kvmclock's wall clock), second names of others, or what belongs
/// to interfaces that our guests do not get (Hyper-V).
Result<std::vector<uint32_t>> state_msr_indices(int kvm_device_fd, int vcpu_fd);

/// The values of those that KVM reads; the others are left out, however many there are. Errors: no
/// register can be read now.
Result<std::vector<kvm_msr_entry>> read_msrs(int vcpu_fd, std::span<const uint32_t> indices);

/// Sets what KVM takes, and leaves out the others. Errors: no register can be set now.
Result<void> set_possible_msrs(int vcpu_fd, std::span<const kvm_msr_entry> entries);
/// Errors: the index and the value that KVM refuses; what stands behind it is not set.
Result<void> set_msrs(int vcpu_fd, std::span<const kvm_msr_entry> entries);

}  // namespace rhea::vmm
