#include "vmm/kvm/vcpu_state_io.h"

#include <linux/kvm.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "util/log.h"
#include "vmm/kvm/kvm_copy.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/kvm/kvm_msrs.h"
#include "vmm/kvm/kvm_xsave.h"

namespace rhea::vmm {
namespace {

constexpr uint32_t kLeafXsave = 0xd;

template <class Copy, class Ours, class Kvms>
void copy_regs(Copy copy, Ours& o, Kvms& k) {
  copy(o.rax, k.rax), copy(o.rbx, k.rbx), copy(o.rcx, k.rcx), copy(o.rdx, k.rdx);
  copy(o.rsi, k.rsi), copy(o.rdi, k.rdi), copy(o.rsp, k.rsp), copy(o.rbp, k.rbp);
  copy(o.r8, k.r8), copy(o.r9, k.r9), copy(o.r10, k.r10), copy(o.r11, k.r11);
  copy(o.r12, k.r12), copy(o.r13, k.r13), copy(o.r14, k.r14), copy(o.r15, k.r15);
  copy(o.rip, k.rip), copy(o.rflags, k.rflags);
}

template <class Copy, class Ours, class Kvms>
void copy_segment(Copy copy, Ours& o, Kvms& k) {
  copy(o.base, k.base), copy(o.limit, k.limit), copy(o.selector, k.selector);
  copy(o.type, k.type), copy(o.present, k.present), copy(o.dpl, k.dpl), copy(o.db, k.db);
  copy(o.s, k.s), copy(o.l, k.l), copy(o.g, k.g), copy(o.avl, k.avl);
  copy(o.unusable, k.unusable);
}

/// Of kvm_sregs and kvm_sregs2.
template <class Copy, class Ours, class Kvms>
void copy_sregs(Copy copy, Ours& o, Kvms& k) {
  copy_segment(copy, o.cs, k.cs), copy_segment(copy, o.ds, k.ds), copy_segment(copy, o.es, k.es);
  copy_segment(copy, o.fs, k.fs), copy_segment(copy, o.gs, k.gs), copy_segment(copy, o.ss, k.ss);
  copy_segment(copy, o.tr, k.tr), copy_segment(copy, o.ldt, k.ldt);
  copy(o.gdt.base, k.gdt.base), copy(o.gdt.limit, k.gdt.limit);
  copy(o.idt.base, k.idt.base), copy(o.idt.limit, k.idt.limit);
  copy(o.cr0, k.cr0), copy(o.cr2, k.cr2), copy(o.cr3, k.cr3), copy(o.cr4, k.cr4);
  copy(o.cr8, k.cr8), copy(o.efer, k.efer), copy(o.apic_base, k.apic_base);
  if constexpr (requires { k.pdptrs; }) {
    copy(o.flags, k.flags);
    for (size_t i = 0; i < o.pdptrs.size(); ++i) copy(o.pdptrs[i].value, k.pdptrs[i]);
  }
}

template <class Copy, class Ours, class Kvms>
void copy_debug(Copy copy, Ours& o, Kvms& k) {
  for (size_t i = 0; i < o.db.size(); ++i) copy(o.db[i].value, k.db[i]);
  copy(o.dr6, k.dr6), copy(o.dr7, k.dr7), copy(o.flags, k.flags);
}

template <class Copy, class Ours, class Kvms>
void copy_events(Copy copy, Ours& o, Kvms& k) {
  copy(o.exception_injected, k.exception.injected), copy(o.exception_nr, k.exception.nr);
  copy(o.exception_has_error_code, k.exception.has_error_code);
  copy(o.exception_pending, k.exception.pending);
  copy(o.exception_error_code, k.exception.error_code);
  copy(o.interrupt_injected, k.interrupt.injected), copy(o.interrupt_nr, k.interrupt.nr);
  copy(o.interrupt_soft, k.interrupt.soft), copy(o.interrupt_shadow, k.interrupt.shadow);
  copy(o.nmi_injected, k.nmi.injected), copy(o.nmi_pending, k.nmi.pending);
  copy(o.nmi_masked, k.nmi.masked);
  copy(o.sipi_vector, k.sipi_vector), copy(o.flags, k.flags);
  copy(o.smi_smm, k.smi.smm), copy(o.smi_pending, k.smi.pending);
  copy(o.smi_inside_nmi, k.smi.smm_inside_nmi), copy(o.smi_latched_init, k.smi.latched_init);
}

template <class T>
Result<T> get(const KvmVcpu& vcpu, unsigned long request, std::string_view what) {
  T value;
  std::memset(&value, 0, sizeof value);
  TRY(kvm_ioctl(vcpu.fd(), request, &value, what));
  return value;
}
#define GET(type, request) get<type>(vcpu, request, #request)

/// What XCR0 may hold: as KVM says, or a KVM that does not say yet (before Linux 5.17) as CPUID
/// does.
uint64_t xfeatures(const KvmVm& vm, const KvmVcpu& vcpu) {
  uint64_t features = kX87AndSse;
  for (const kvm_cpuid_entry2& entry : vcpu.cpuid()) {
    if (entry.function != kLeafXsave || entry.index != 0) continue;
    features |= uint64_t{entry.edx} << 32 | entry.eax;
  }
  uint64_t supported = 0;
  kvm_device_attr attribute{};
  attribute.attr = KVM_X86_XCOMP_GUEST_SUPP;
  attribute.addr = reinterpret_cast<uintptr_t>(&supported);
  if (::ioctl(vm.device_fd(), KVM_GET_DEVICE_ATTR, &attribute) == 0) features |= supported;
  return features;
}

Result<void> read_system_registers(const KvmVm& vm, const KvmVcpu& vcpu, SystemRegisters& out) {
  if (vm.capability(KVM_CAP_SREGS2) > 0) {
    const auto sregs = TRY(GET(kvm_sregs2, KVM_GET_SREGS2));
    copy_sregs(FromKvm{}, out, sregs);
  } else {
    const auto sregs = TRY(GET(kvm_sregs, KVM_GET_SREGS));
    copy_sregs(FromKvm{}, out, sregs);
  }
  return ok();
}

Result<void> read_extended_state(const KvmVm& vm, const KvmVcpu& vcpu, VcpuState& state) {
  state.xsave = TRY(read_xsave(vm, vcpu.fd()));
  if (vm.capability(KVM_CAP_XCRS) == 0) return ok();
  const auto xcrs = TRY(GET(kvm_xcrs, KVM_GET_XCRS));
  for (uint32_t i = 0; i < std::min<uint32_t>(xcrs.nr_xcrs, kMaxXcrs); ++i) {
    state.xcrs.push_back({.index = xcrs.xcrs[i].xcr, .value = xcrs.xcrs[i].value});
  }
  return ok();
}

Result<void> write_system_registers(const KvmVm& vm, const KvmVcpu& vcpu,
                                    const SystemRegisters& state) {
  if (vm.capability(KVM_CAP_SREGS2) > 0) {
    kvm_sregs2 sregs{};
    copy_sregs(ToKvm{}, state, sregs);
    TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_SREGS2, &sregs));
  } else {
    kvm_sregs sregs{};  // interrupt_bitmap stays empty: the events say which is on its way
    copy_sregs(ToKvm{}, state, sregs);
    TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_SREGS, &sregs));
  }
  return ok();
}

Result<void> write_extended_state(const KvmVm& vm, const KvmVcpu& vcpu, const VcpuState& state) {
  if (!state.xcrs.empty()) {
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = static_cast<uint32_t>(state.xcrs.size());
    for (size_t i = 0; i < state.xcrs.size(); ++i) {
      xcrs.xcrs[i].xcr = state.xcrs[i].index;
      xcrs.xcrs[i].value = state.xcrs[i].value;
    }
    TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_XCRS, &xcrs));
  }
  return write_xsave(vm, vcpu.fd(), state.xsave);
}

/// Registers that hold what they should already are not set: many can not be, or only before the
/// vCPU runs, and on a host of the same kind they agree. The TSC never does.
Result<void> write_msrs(const KvmVcpu& vcpu, const VcpuState& state) {
  std::vector<uint32_t> indices;
  for (const NumberedRegister& reg : state.msrs) indices.push_back(reg.index);
  const auto entries = TRY(read_msrs(vcpu.fd(), indices));
  std::map<uint32_t, uint64_t> present;
  for (const kvm_msr_entry& entry : entries) present[entry.index] = entry.data;
  std::vector<kvm_msr_entry> changed;
  for (const NumberedRegister& reg : state.msrs) {
    const auto at = present.find(reg.index);
    if (reg.index != msr::kTsc && at != present.end() && at->second == reg.value) continue;
    changed.push_back({.index = reg.index, .reserved = 0, .data = reg.value});
  }
  return set_msrs(vcpu.fd(), changed);
}

/// Within what KVM and the guest's clock correction tolerate, nothing needs to be done.
Result<void> write_tsc_frequency(const KvmVm& vm, const KvmVcpu& vcpu, uint32_t khz) {
  const int here = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  if (khz == 0 || here <= 0 || static_cast<uint32_t>(here) == khz) return ok();
  auto done = KVM_IOCTL(vcpu.fd(), KVM_SET_TSC_KHZ, khz);
  if (!done) {
    if (vm.capability(KVM_CAP_TSC_CONTROL) > 0) return std::move(done).error();
    // Without scaling KVM refuses; check_vcpu() has seen that the difference is small enough then.
    RHEA_LOG(kVmm, kInfo, "the TSC runs at {} kHz, not at {} kHz: {}", here, khz,
             done.error().message());
  }
  return ok();
}

}  // namespace

// The order of reading.
// - KVM_GET_MP_STATE comes first: it makes KVM act on an INIT or SIPI that is latched, which
//   changes registers, segments, LAPIC and events.
// - KVM_GET_VCPU_EVENTS is next: it delivers what an exception carries along (CR2, DR6).
// - The LAPIC comes before the MSRs, so that the deadline timer's MSR is not newer than its
//   registers.
Result<VcpuState> read_vcpu(const KvmVm& vm, const KvmVcpu& vcpu) {
  VcpuState state;
  state.cpuid = cpuid_state(vcpu.cpuid());
  const int khz = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  state.tsc_khz = static_cast<uint32_t>(std::max(0, khz));
  state.mp_state = TRY(GET(kvm_mp_state, KVM_GET_MP_STATE)).mp_state;
  const auto events = TRY(GET(kvm_vcpu_events, KVM_GET_VCPU_EVENTS));
  copy_events(FromKvm{}, state.events, events);
  const auto regs = TRY(GET(kvm_regs, KVM_GET_REGS));
  copy_regs(FromKvm{}, state.regs, regs);
  TRY(read_system_registers(vm, vcpu, state.sregs));
  TRY(read_extended_state(vm, vcpu, state));
  const auto debug = TRY(GET(kvm_debugregs, KVM_GET_DEBUGREGS));
  copy_debug(FromKvm{}, state.debug, debug);
  const auto lapic = TRY(GET(kvm_lapic_state, KVM_GET_LAPIC));
  std::memcpy(state.lapic.data(), lapic.regs, state.lapic.size());
  const auto indices = TRY(state_msr_indices(vm.device_fd(), vcpu.fd()));
  const auto entries = TRY(read_msrs(vcpu.fd(), indices));
  for (const kvm_msr_entry& entry : entries) {
    state.msrs.push_back({.index = entry.index, .value = entry.data});
  }
  return state;
}

Result<VcpuLimits> read_vcpu_limits(const KvmVm& vm, const KvmVcpu& vcpu) {
  const auto msrs = TRY(state_msr_indices(vm.device_fd(), vcpu.fd()));
  const int khz = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
  return VcpuLimits{.cpuid = vcpu.cpuid(),
                    .tsc_khz = static_cast<uint32_t>(std::max(0, khz)),
                    .scales_tsc = vm.capability(KVM_CAP_TSC_CONTROL) > 0,
                    .has_xcrs = vm.capability(KVM_CAP_XCRS) > 0,
                    .most_xsave_bytes = xsave_bytes(vm),
                    .xfeatures = xfeatures(vm, vcpu),
                    .msrs = {msrs.begin(), msrs.end()}};
}

// The order of setting.
// - The TSC's frequency comes before its value, which KVM turns into an offset with it.
// - The system registers come before the LAPIC: they hold its base address and mode (xAPIC or
//   x2APIC), by which KVM reads the register page; and before the MP state, because a vCPU whose
//   segments are those of a reset is made runnable by KVM.
// - The general registers come before the events: setting RIP drops a pending exception, and
//   before Linux 4.20 that is what KVM makes of an injected one.
// - XCR0 comes before the extended state that it enables, though KVM takes them in either order.
// - The LAPIC comes before the MSRs: the deadline timer's MSR is ignored unless the LAPIC's timer
//   is in that mode. Within the MSRs the TSC comes first and that one last (state_msr_indices()).
// - The debug registers come behind those, free of any order but before the events, which may be
//   about to deliver a #DB.
// - The events and the MP state come last, so that nothing set later takes them away again.
Result<void> write_vcpu(const KvmVm& vm, const KvmVcpu& vcpu, const VcpuState& state) {
  TRY(write_tsc_frequency(vm, vcpu, state.tsc_khz));
  TRY(write_system_registers(vm, vcpu, state.sregs));
  kvm_regs regs{};
  copy_regs(ToKvm{}, state.regs, regs);
  TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_REGS, &regs));
  TRY(write_extended_state(vm, vcpu, state));
  kvm_lapic_state lapic{};
  std::memcpy(lapic.regs, state.lapic.data(), state.lapic.size());
  TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_LAPIC, &lapic));
  TRY(write_msrs(vcpu, state));
  kvm_debugregs debug{};
  copy_debug(ToKvm{}, state.debug, debug);
  TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_DEBUGREGS, &debug));
  kvm_vcpu_events events{};
  copy_events(ToKvm{}, state.events, events);
  TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_VCPU_EVENTS, &events));
  kvm_mp_state mp_state{.mp_state = state.mp_state};
  TRY(KVM_IOCTL(vcpu.fd(), KVM_SET_MP_STATE, &mp_state));
  return ok();
}

}  // namespace rhea::vmm
