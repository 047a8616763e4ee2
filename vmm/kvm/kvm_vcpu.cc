#include "vmm/kvm/kvm_vcpu.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "vmm/kvm/kvm_cpuid.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/kvm/kvm_msrs.h"
#include "vmm/kvm/kvm_xsave.h"

namespace rhea::vmm {
namespace {

constexpr uint64_t kFastStrings = 1;  // [SDM vol. 4, IA32_MISC_ENABLE]

kvm_segment to_kvm(const SegmentState& segment) {
  kvm_segment out{};
  out.base = segment.base;
  out.limit = segment.limit;
  out.selector = segment.selector;
  out.type = segment.type;
  out.present = segment.present ? 1 : 0;
  out.s = segment.code_or_data ? 1 : 0;
  out.l = segment.long_mode ? 1 : 0;
  out.db = segment.big ? 1 : 0;
  out.g = segment.granularity ? 1 : 0;
  return out;
}

kvm_dtable to_kvm(const DescriptorTable& table) {
  kvm_dtable out{};
  out.base = table.base;
  out.limit = table.limit;
  return out;
}

}  // namespace

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(const KvmVm& vm, uint32_t apic_id,
                                                 const std::vector<kvm_cpuid_entry2>& cpuid) {
  // KVM takes the vCPU's id as its initial APIC id.
  Fd fd(TRY(KVM_IOCTL(vm.fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(apic_id))));
  void* run = ::mmap(nullptr, vm.run_size_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (run == MAP_FAILED) return fail_errno(errno, "cannot map a vCPU's run page");
  std::unique_ptr<KvmVcpu> vcpu(
      new KvmVcpu(std::move(fd), static_cast<kvm_run*>(run), vm.run_size_bytes()));
  TRY(set_cpuid(vcpu->fd(), cpuid));
  // A hint: without it guests are merely slower.
  const kvm_msr_entry misc{.index = msr::kMiscEnable, .reserved = 0, .data = kFastStrings};
  TRY(set_possible_msrs(vcpu->fd(), {&misc, 1}));
  vcpu->cpuid_ = cpuid;
  TRY(vcpu->save_power_on(vm));
  return vcpu;
}

KvmVcpu::~KvmVcpu() { ::munmap(run_, run_size_bytes_); }

Result<void> KvmVcpu::save_power_on(const KvmVm& vm) {
  TRY(KVM_IOCTL(fd(), KVM_GET_REGS, &power_on_.regs));
  TRY(KVM_IOCTL(fd(), KVM_GET_SREGS, &power_on_.sregs));
  TRY(save_xsave(vm));
  has_xcrs_ = vm.capability(KVM_CAP_XCRS) > 0;
  if (has_xcrs_) TRY(KVM_IOCTL(fd(), KVM_GET_XCRS, &power_on_.xcrs));
  TRY(KVM_IOCTL(fd(), KVM_GET_DEBUGREGS, &power_on_.debugregs));
  TRY(KVM_IOCTL(fd(), KVM_GET_VCPU_EVENTS, &power_on_.events));
  TRY(KVM_IOCTL(fd(), KVM_GET_LAPIC, &power_on_.lapic));
  TRY(KVM_IOCTL(fd(), KVM_GET_MP_STATE, &power_on_.mp_state));
  return save_msrs(vm);
}

/// What is marked as unused is not set, and with the SSE registers MXCSR would stay the guest's.
Result<void> KvmVcpu::save_xsave(const KvmVm& vm) {
  power_on_.xsave = TRY(read_xsave(vm, fd()));
  uint64_t in_use = 0;
  std::memcpy(&in_use, power_on_.xsave.data() + kXsaveHeader, sizeof in_use);
  in_use |= kX87AndSse;
  std::memcpy(power_on_.xsave.data() + kXsaveHeader, &in_use, sizeof in_use);
  return ok();
}

/// All of its state, and what is part of none for what else a store does: kvmclock's wall clock.
Result<void> KvmVcpu::save_msrs(const KvmVm& vm) {
  std::vector<uint32_t> indices = TRY(state_msr_indices(vm.device_fd(), fd()));
  for (const uint32_t index : TRY(msr_indices(vm.device_fd()))) {
    if (std::ranges::find(indices, index) == indices.end()) indices.push_back(index);
  }
  // The TSC is left alone: setting it vCPU by vCPU would pull them apart, and no guest relies on
  // its value at reset.
  std::erase(indices, msr::kTsc);
  power_on_.msrs = TRY(read_msrs(fd(), indices));
  return ok();
}

Result<void> KvmVcpu::reset(const KvmVm& vm) {
  TRY(KVM_IOCTL(fd(), KVM_SET_MP_STATE, &power_on_.mp_state));
  TRY(KVM_IOCTL(fd(), KVM_SET_REGS, &power_on_.regs));
  TRY(KVM_IOCTL(fd(), KVM_SET_SREGS, &power_on_.sregs));
  if (has_xcrs_) TRY(KVM_IOCTL(fd(), KVM_SET_XCRS, &power_on_.xcrs));
  TRY(write_xsave(vm, fd(), power_on_.xsave));
  TRY(KVM_IOCTL(fd(), KVM_SET_DEBUGREGS, &power_on_.debugregs));
  TRY(KVM_IOCTL(fd(), KVM_SET_LAPIC, &power_on_.lapic));
  TRY(KVM_IOCTL(fd(), KVM_SET_VCPU_EVENTS, &power_on_.events));
  return set_possible_msrs(fd(), power_on_.msrs);
}

void KvmVcpu::note_paused() noexcept {
  // EINVAL: this guest does not use kvmclock, so there is nobody to tell.
  ::ioctl(fd(), KVM_KVMCLOCK_CTRL, 0);
}

Result<void> KvmVcpu::set_boot_registers(const BootState& boot) {
  kvm_sregs sregs = power_on_.sregs;
  sregs.cs = to_kvm(boot.code);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = to_kvm(boot.data);
  sregs.tr = to_kvm(boot.task);
  sregs.gdt = to_kvm(boot.gdt);
  sregs.idt = to_kvm(boot.idt);
  sregs.cr0 = boot.cr0;
  sregs.cr3 = boot.cr3;
  sregs.cr4 = boot.cr4;
  sregs.efer = boot.efer;
  TRY(KVM_IOCTL(fd(), KVM_SET_SREGS, &sregs));
  kvm_regs regs{};
  regs.rip = boot.rip;
  regs.rsi = boot.rsi;
  regs.rbx = boot.rbx;
  regs.rflags = boot.rflags;
  TRY(KVM_IOCTL(fd(), KVM_SET_REGS, &regs));
  return ok();
}

std::string KvmVcpu::dump_registers() const {
  kvm_regs r{};
  kvm_sregs s{};
  if (::ioctl(fd(), KVM_GET_REGS, &r) < 0 || ::ioctl(fd(), KVM_GET_SREGS, &s) < 0) {
    return "registers: not readable\n";
  }
  std::string out;
  const auto line = [&out]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    out += fmt::format(format, std::forward<Args>(args)...) + '\n';
  };
  line("RAX={:016x} RBX={:016x} RCX={:016x} RDX={:016x}", r.rax, r.rbx, r.rcx, r.rdx);
  line("RSI={:016x} RDI={:016x} RBP={:016x} RSP={:016x}", r.rsi, r.rdi, r.rbp, r.rsp);
  line("R8 ={:016x} R9 ={:016x} R10={:016x} R11={:016x}", r.r8, r.r9, r.r10, r.r11);
  line("R12={:016x} R13={:016x} R14={:016x} R15={:016x}", r.r12, r.r13, r.r14, r.r15);
  line("RIP={:016x} RFL={:08x} CPL={}", r.rip, r.rflags, s.ss.dpl);
  const auto segment = [&](const char* name, const kvm_segment& g) {
    line("{} ={:04x} {:016x} {:08x} type={:x} dpl={} p={} l={} db={}", name, g.selector, g.base,
         g.limit, g.type, g.dpl, g.present, g.l, g.db);
  };
  segment("CS", s.cs);
  segment("DS", s.ds);
  segment("ES", s.es);
  segment("SS", s.ss);
  segment("FS", s.fs);
  segment("GS", s.gs);
  segment("TR", s.tr);
  line("GDT={:016x} {:08x}  IDT={:016x} {:08x}", s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit);
  line("CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:016x}", s.cr0, s.cr2, s.cr3, s.cr4,
       s.efer);
  return out;
}

}  // namespace rhea::vmm
