#include "vmm/kvm/kvm_cpuid.h"

#include <algorithm>
#include <utility>

#include "vmm/kvm/kvm_array.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr uint32_t kMaxEntries = 512;  // far above what any CPU has; KVM says E2BIG if not

// Leaves and bits that depend on the machine, not on the host. [SDM vol. 2, CPUID]
constexpr uint32_t kLeafFeatures = 0x1;
constexpr uint32_t kLeafCaches = 0x4;
constexpr uint32_t kLeafTopology = 0xb;
constexpr uint32_t kLeafTopologyV2 = 0x1f;
constexpr uint32_t kLeafAmdFeatures = 0x80000001;
constexpr uint32_t kLeafAdvancedPower = 0x80000007;
constexpr uint32_t kLeafAmdSizes = 0x80000008;
constexpr uint32_t kLeafSvm = 0x8000000a;
constexpr uint32_t kLeafAmdTopology = 0x8000001e;
constexpr uint32_t kEcxVmx = 1U << 5;
constexpr uint32_t kEcxSvm = 1U << 2;
constexpr uint32_t kEcxHypervisor = 1U << 31;
constexpr uint32_t kEcxTscDeadline = 1U << 24;
constexpr uint32_t kEdxHtt = 1U << 28;
constexpr uint32_t kEdxInvariantTsc = 1U << 8;

class VcpuLeaves {
 public:
  VcpuLeaves(const SmpConfig& smp, uint32_t apic_id)
      : smp_(smp), topology_(ApicTopology::of(smp)), apic_id_(apic_id) {}

  void adjust(kvm_cpuid_entry2& entry) const {
    switch (entry.function) {
      case kLeafFeatures:
        return features(entry);
      case kLeafCaches:
        return caches(entry);
      case kLeafTopology:
      case kLeafTopologyV2:
        return topology(entry);
      case kLeafAdvancedPower:
        // The guest's TSC runs on while the machine is stopped, so it must not be its clock:
        // without this bit Linux keeps to kvmclock, which does stop.
        entry.edx &= ~kEdxInvariantTsc;
        return;
      case kLeafAmdSizes:
        entry.ecx = (entry.ecx & ~0xf0ffU) | (package_bits() << 12) | (package_cpus() - 1);
        return;
      case kLeafAmdTopology:
        entry.eax = apic_id_;
        entry.ebx = (entry.ebx & ~0xffffU) | ((smp_.threads - 1) << 8) |
                    ((apic_id_ >> topology_.thread_bits) & ((1U << topology_.core_bits) - 1));
        entry.ecx = (entry.ecx & ~0x7ffU) | (apic_id_ >> package_bits());
        return;
      default:
        return;
    }
  }

 private:
  unsigned package_bits() const { return topology_.thread_bits + topology_.core_bits; }
  unsigned package_cpus() const { return smp_.cores * smp_.threads; }

  void features(kvm_cpuid_entry2& entry) const {
    entry.ebx = (entry.ebx & 0xffff) | (apic_id_ << 24) | ((1U << package_bits()) << 16 & 0xff0000);
    entry.ecx |= kEcxHypervisor | kEcxTscDeadline;
    entry.edx = package_cpus() > 1 ? entry.edx | kEdxHtt : entry.edx & ~kEdxHtt;
  }

  // Bits 31:26: addressable cores in a package, 25:14: addressable threads sharing the cache. The
  // first two levels belong to a core, the third to the package.
  void caches(kvm_cpuid_entry2& entry) const {
    if ((entry.eax & 0x1f) == 0) return;
    const unsigned level = (entry.eax >> 5) & 0x7;
    const uint32_t sharing = level < 3 ? (1U << topology_.thread_bits) : (1U << package_bits());
    const uint32_t cores = 1U << topology_.core_bits;
    entry.eax = (entry.eax & 0x3fff) | ((sharing - 1) << 14) | ((cores - 1) << 26);
  }

  void topology(kvm_cpuid_entry2& entry) const {
    constexpr uint32_t kTypeSmt = 1;
    constexpr uint32_t kTypeCore = 2;
    entry.eax = entry.ebx = 0;
    entry.ecx = entry.index & 0xff;
    entry.edx = apic_id_;
    if (entry.index == 0) {
      entry.eax = topology_.thread_bits;
      entry.ebx = smp_.threads;
      entry.ecx |= kTypeSmt << 8;
    } else if (entry.index == 1) {
      entry.eax = package_bits();
      entry.ebx = package_cpus();
      entry.ecx |= kTypeCore << 8;
    }
  }

  const SmpConfig& smp_;
  const ApicTopology topology_;
  const uint32_t apic_id_;
};

// KVM reports one sub-leaf of a topology leaf on some hosts; the guest walks until a level of type
// 0.
void complete_topology(std::vector<kvm_cpuid_entry2>& entries, uint32_t leaf) {
  const auto same_leaf = [leaf](const kvm_cpuid_entry2& e) { return e.function == leaf; };
  if (std::ranges::none_of(entries, same_leaf)) return;
  std::erase_if(entries, same_leaf);
  for (uint32_t index = 0; index < 3; ++index) {
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entries.push_back(entry);
  }
}

// A guest's own guests are part of its state, and we neither save nor reset them: KVM refuses to
// reset a vCPU that has entered VMX operation by its registers alone, and a machine that is moved
// while it has would find its instructions failing.
void hide_nested_virtualisation(std::vector<kvm_cpuid_entry2>& entries) {
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function == kLeafFeatures) entry.ecx &= ~kEcxVmx;
    if (entry.function == kLeafAmdFeatures) entry.ecx &= ~kEcxSvm;
    if (entry.function == kLeafSvm) entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
  }
}

}  // namespace

Result<CpuidTable> CpuidTable::create(int kvm_device_fd, const SmpConfig& smp) {
  KvmCpuidArray supported(kMaxEntries);
  TRY(kvm_ioctl(kvm_device_fd, kKvmGetSupportedCpuid, supported.get(), "KVM_GET_SUPPORTED_CPUID"));
  return of({supported.elements().begin(), supported.elements().end()}, smp);
}

CpuidTable CpuidTable::of(std::vector<kvm_cpuid_entry2> supported, const SmpConfig& smp) {
  CpuidTable table;
  table.smp_ = smp;
  table.entries_ = std::move(supported);
  hide_nested_virtualisation(table.entries_);
  complete_topology(table.entries_, kLeafTopology);
  complete_topology(table.entries_, kLeafTopologyV2);
  return table;
}

std::vector<kvm_cpuid_entry2> CpuidTable::for_vcpu(unsigned cpu_index) const {
  const VcpuLeaves leaves(smp_, ApicTopology::of(smp_).apic_id(smp_, cpu_index));
  std::vector<kvm_cpuid_entry2> entries = entries_;
  for (kvm_cpuid_entry2& entry : entries) leaves.adjust(entry);
  return entries;
}

Result<void> set_cpuid(int vcpu_fd, const std::vector<kvm_cpuid_entry2>& entries) {
  KvmCpuidArray table(entries.size());
  std::ranges::copy(entries, table.elements().begin());
  TRY(kvm_ioctl(vcpu_fd, kKvmSetCpuid2, table.get(), "KVM_SET_CPUID2"));
  return ok();
}

}  // namespace rhea::vmm
