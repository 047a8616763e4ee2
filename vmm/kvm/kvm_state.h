// All that KVM holds of a machine but its RAM: vCPUs, interrupt controllers, timer and clock.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "util/bql.h"
#include "util/error.h"
#include "vmm/accel_state.h"
#include "vmm/kvm/chips_state.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/vcpu_check.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/vm_clock.h"

namespace rhea::vmm {

struct KvmState {
  PitState pit;
  IrqchipState irqchip;
  std::vector<VcpuState> vcpus;
  KvmClockState kvm_clock;
  VmClockState vm_clock;
};

/// The machine that a state is of. Thread: main with the BQL, all vCPUs standing still.
struct KvmMachine {
  KvmVm& vm;
  std::vector<KvmVcpu*> vcpus;
  VmClock& clock;
};

/// What is known of a machine before a state is set in it, so that a state can be judged without
/// KVM.
struct KvmLimits {
  std::vector<VcpuLimits> vcpus;
  uint64_t ioapic_base = 0;
};

/// `kvm_clock` is what kvmclock stood at when the vCPUs did.
Result<KvmState> read_state(const KvmMachine& machine, uint64_t kvm_clock) REQUIRES(bql);
Result<KvmLimits> read_limits(const KvmMachine& machine) REQUIRES(bql);
/// A state of as many vCPUs as `limits` has. Errors: names the section, "vcpu 0: ...".
Result<void> check_state(const KvmLimits& limits, const VmClock& clock, const KvmState& state);
/// Sets a checked state, but for kvmclock, which goes on when the vCPUs do.
Result<void> write_state(const KvmMachine& machine, const KvmState& state) REQUIRES(bql);

std::vector<StateSection> encode_sections(const KvmState& state);
/// Errors: a section is missing or too many, or is not as described. `vcpus` are expected.
Result<KvmState> decode_sections(std::span<const StateSection> sections, size_t vcpus);
std::string describe_sections();

}  // namespace rhea::vmm
