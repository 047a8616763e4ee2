#include "vmm/kvm/vcpu_check.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "util/crc32c.h"

namespace rhea::vmm {
namespace {

// The standard form of an XSAVE area. [SDM vol. 1, 13.4]
constexpr size_t kMxcsr = 24;
constexpr size_t kXcompBv = kXsaveHeader + 8;
constexpr size_t kXsaveReserved = kXcompBv + 8;
constexpr size_t kXsaveHeaderEnd = kXsaveHeader + 64;
constexpr uint64_t kTscTolerancePpm = 250;  // KVM's own
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4Pae = 1U << 5;
constexpr uint64_t kEferEnable = 1U << 8;
constexpr uint64_t kEferActive = 1U << 10;
constexpr uint8_t kVectorNmi = 2;
constexpr uint8_t kLastException = 31;
constexpr uint32_t kKnownEvents = KVM_VCPUEVENT_VALID_NMI_PENDING |
                                  KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
                                  KVM_VCPUEVENT_VALID_SMM;

using Leaf = std::pair<uint32_t, uint32_t>;
struct LeafRegister {
  const char* name;
  uint32_t CpuidState::* member;
};
constexpr std::array kLeafRegisters{
    LeafRegister{"eax", &CpuidState::eax}, LeafRegister{"ebx", &CpuidState::ebx},
    LeafRegister{"ecx", &CpuidState::ecx}, LeafRegister{"edx", &CpuidState::edx}};

/// What tells processors apart, and says of itself what is missing.
struct TellingRegister {
  Leaf leaf;
  LeafRegister reg;
};
constexpr std::array kTelling{TellingRegister{{0x1, 0}, kLeafRegisters[0]},
                              TellingRegister{{0x1, 0}, kLeafRegisters[2]},
                              TellingRegister{{0x1, 0}, kLeafRegisters[3]},
                              TellingRegister{{0x7, 0}, kLeafRegisters[1]},
                              TellingRegister{{0x7, 0}, kLeafRegisters[2]},
                              TellingRegister{{0x7, 0}, kLeafRegisters[3]},
                              TellingRegister{{0x80000001, 0}, kLeafRegisters[2]},
                              TellingRegister{{0x80000001, 0}, kLeafRegisters[3]}};

std::map<Leaf, CpuidState> by_leaf(const std::vector<CpuidState>& entries) {
  std::map<Leaf, CpuidState> leaves;
  for (const CpuidState& entry : entries) leaves[{entry.function, entry.index}] = entry;
  return leaves;
}

Error wrong(std::string_view field, uint64_t value) {
  return fail(ErrorKind::kCorrupt, "{} {:#x} is not possible", field, value);
}

Result<void> check_long_mode(const SystemRegisters& sregs) {
  const bool paging = (sregs.cr0 & kCr0Paging) != 0;
  const bool enabled = (sregs.efer & kEferEnable) != 0;
  const bool active = (sregs.efer & kEferActive) != 0;
  if (active != (enabled && paging)) return wrong("sregs.efer", sregs.efer);
  if (active && (sregs.cr4 & kCr4Pae) == 0) return wrong("sregs.cr4", sregs.cr4);
  if (!active && sregs.cs.l != 0) return wrong("sregs.cs.l", sregs.cs.l);
  if ((sregs.flags & ~uint64_t{KVM_SREGS2_FLAGS_PDPTRS_VALID}) != 0) {
    return wrong("sregs.flags", sregs.flags);
  }
  return ok();
}

Result<void> check_events(const VcpuEventsState& events) {
  if ((events.flags & ~kKnownEvents) != 0) return wrong("events.flags", events.flags);
  const bool exception = events.exception_injected != 0 || events.exception_pending != 0;
  if (exception && (events.exception_nr > kLastException || events.exception_nr == kVectorNmi)) {
    return wrong("events.exception_nr", events.exception_nr);
  }
  if (events.interrupt_shadow > (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI)) {
    return wrong("events.interrupt_shadow", events.interrupt_shadow);
  }
  return ok();
}

Result<void> check_mp_state(uint32_t mp_state) {
  for (const int known :
       {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED, KVM_MP_STATE_SIPI_RECEIVED}) {
    if (mp_state == static_cast<uint32_t>(known)) return ok();
  }
  return wrong("mp_state", mp_state);
}

Result<void> check_debug(const DebugRegisters& debug) {
  if (debug.flags != 0) return wrong("debug.flags", debug.flags);
  if (debug.dr6 >> 32 != 0) return wrong("debug.dr6", debug.dr6);
  if (debug.dr7 >> 32 != 0) return wrong("debug.dr7", debug.dr7);
  return ok();
}

template <class T>
T load(std::span<const uint8_t> bytes, size_t offset) {
  T value = 0;
  for (size_t i = sizeof value; i-- > 0;) value = static_cast<T>(value << 8 | bytes[offset + i]);
  return value;
}

/// KVM would refuse these as a whole, and say nothing but EINVAL, when half of the vCPU is set.
Result<void> check_xsave(const VcpuLimits& limits, std::span<const uint8_t> xsave) {
  if (xsave.size() < kLeastXsaveBytes || xsave.size() > limits.most_xsave_bytes) {
    return fail(ErrorKind::kUnsupported, "xsave is of {} bytes, this host takes {} to {}",
                xsave.size(), kLeastXsaveBytes, limits.most_xsave_bytes);
  }
  const auto mxcsr = load<uint32_t>(xsave, kMxcsr);
  if (mxcsr >> 16 != 0) return wrong("xsave: MXCSR", mxcsr);
  const auto components = load<uint64_t>(xsave, kXsaveHeader);
  if ((components & ~limits.xfeatures) != 0) return wrong("xsave: XSTATE_BV", components);
  const auto compaction = load<uint64_t>(xsave, kXcompBv);
  if (compaction != 0) return wrong("xsave: XCOMP_BV", compaction);
  for (size_t i = kXsaveReserved; i < kXsaveHeaderEnd; ++i) {
    if (xsave[i] != 0) return wrong("xsave: a reserved byte of the header", xsave[i]);
  }
  return ok();
}

Result<void> check_xcrs(const VcpuLimits& limits, const std::vector<NumberedRegister>& xcrs) {
  if (!xcrs.empty() && !limits.has_xcrs) {
    return fail(ErrorKind::kUnsupported, "this host has no extended control registers");
  }
  for (const NumberedRegister& xcr : xcrs) {
    if (xcr.index != 0) return wrong("xcrs: index", xcr.index);
    if ((xcr.value & 1) == 0 || (xcr.value & ~limits.xfeatures) != 0) {
      return wrong("xcrs: XCR0", xcr.value);
    }
  }
  return ok();
}

Result<void> check_tsc(const VcpuLimits& limits, uint32_t khz) {
  const uint64_t here = limits.tsc_khz;
  if (khz == 0 || here == 0 || limits.scales_tsc) return ok();
  const uint64_t difference = khz > here ? khz - here : here - khz;
  if (difference * 1'000'000 <= here * kTscTolerancePpm) return ok();
  return fail(
      ErrorKind::kUnsupported,
      "tsc_khz: the guest's TSC runs at {} kHz, this host's at {} kHz, and can not be scaled", khz,
      here);
}

Result<void> check_msrs(const VcpuLimits& limits, const std::vector<NumberedRegister>& msrs) {
  std::set<uint32_t> seen;
  for (const NumberedRegister& reg : msrs) {
    if (!limits.msrs.contains(reg.index)) {
      return fail(ErrorKind::kUnsupported, "msr {:#x} does not exist on this host", reg.index);
    }
    if (!seen.insert(reg.index).second) {
      return fail(ErrorKind::kCorrupt, "msr {:#x} is there twice", reg.index);
    }
  }
  return ok();
}

}  // namespace

std::vector<CpuidState> cpuid_state(const std::vector<kvm_cpuid_entry2>& entries) {
  std::vector<CpuidState> states;
  for (const kvm_cpuid_entry2& e : entries) {
    states.push_back({.function = e.function,
                      .index = e.index,
                      .flags = e.flags,
                      .eax = e.eax,
                      .ebx = e.ebx,
                      .ecx = e.ecx,
                      .edx = e.edx});
  }
  return states;
}

Result<void> compare_cpuid(const std::vector<CpuidState>& source,
                           const std::vector<kvm_cpuid_entry2>& here) {
  auto theirs = by_leaf(source);
  auto mine = by_leaf(cpuid_state(here));
  for (const auto& [leaf, entry] : mine) theirs.try_emplace(leaf);
  for (const auto& [leaf, entry] : theirs) {
    const CpuidState& other = mine[leaf];
    for (const LeafRegister& reg : kLeafRegisters) {
      const uint32_t there = entry.*reg.member;
      const uint32_t local = other.*reg.member;
      if (there == local) continue;
      return fail(ErrorKind::kUnsupported,
                  "CPUID leaf {:#x}, index {}, {}: the guest was started with bits {:#x} that are "
                  "not set on this host, and without {:#x}, which are",
                  leaf.first, leaf.second, reg.name, there & ~local, local & ~there);
    }
  }
  return ok();
}

std::string describe_cpuid(std::span<const std::vector<kvm_cpuid_entry2>> vcpus) {
  std::string line;
  uint32_t checksum = 0;
  for (size_t i = 0; i < vcpus.size(); ++i) {
    auto leaves = by_leaf(cpuid_state(vcpus[i]));
    for (const auto& [leaf, e] : leaves) {
      if ((e.eax | e.ebx | e.ecx | e.edx) == 0) continue;
      checksum = crc32c(fmt::format("{} {} {} {} {} {} {}\n", i, leaf.first, leaf.second, e.eax,
                                    e.ebx, e.ecx, e.edx),
                        checksum);
    }
    if (i > 0) continue;
    for (const auto& [leaf, reg] : kTelling) {
      line += fmt::format("cpuid.{:x}.{}={:x} ", leaf.first, reg.name, leaves[leaf].*reg.member);
    }
  }
  return line + fmt::format("cpuid={:08x}", checksum);
}

Result<void> check_vcpu(const VcpuLimits& limits, const VcpuState& state) {
  TRY(compare_cpuid(state.cpuid, limits.cpuid));
  TRY(check_tsc(limits, state.tsc_khz));
  TRY(check_mp_state(state.mp_state));
  TRY(check_long_mode(state.sregs));
  TRY(check_xsave(limits, state.xsave));
  TRY(check_xcrs(limits, state.xcrs));
  TRY(check_debug(state.debug));
  TRY(check_events(state.events));
  return check_msrs(limits, state.msrs);
}

}  // namespace rhea::vmm
