// KvmVcpu: one vCPU of the kernel: its descriptor, its run page and its registers.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "util/error.h"
#include "util/fd.h"
#include "vmm/boot/boot_state.h"
#include "vmm/kvm/kvm_vm.h"

namespace rhea::vmm {

/// Thread: creation on main; afterwards its own thread, or main while that thread stands still.
class KvmVcpu {
 public:
  /// Creates the vCPU with this APIC id, sets its CPUID and remembers its power-on state.
  static Result<std::unique_ptr<KvmVcpu>> create(const KvmVm& vm, uint32_t apic_id,
                                                 const std::vector<kvm_cpuid_entry2>& cpuid);
  ~KvmVcpu();
  KvmVcpu(const KvmVcpu&) = delete;
  KvmVcpu& operator=(const KvmVcpu&) = delete;

  int fd() const noexcept { return fd_.get(); }
  kvm_run& run() noexcept { return *run_; }
  /// What the guest sees.
  const std::vector<kvm_cpuid_entry2>& cpuid() const noexcept { return cpuid_; }

  /// Back to the power-on state: for an AP that is "waiting for INIT".
  Result<void> reset(const KvmVm& vm);
  /// Registers for the kernel's entry point. After reset().
  Result<void> set_boot_registers(const BootState& boot);
  /// Tells the guest that it was stopped, so that its watchdogs do not count the time.
  void note_paused() noexcept;

  /// Registers and segments in the field's usual form, several lines.
  std::string dump_registers() const;

 private:
  KvmVcpu(Fd fd, kvm_run* run, size_t run_size_bytes)
      : fd_(std::move(fd)), run_(run), run_size_bytes_(run_size_bytes) {}

  struct PowerOn {
    kvm_regs regs;
    kvm_sregs sregs;
    std::vector<uint8_t> xsave;
    kvm_xcrs xcrs;
    kvm_debugregs debugregs;
    kvm_vcpu_events events;
    kvm_lapic_state lapic;
    kvm_mp_state mp_state;
    std::vector<kvm_msr_entry> msrs;
  };
  Result<void> save_power_on(const KvmVm& vm);
  Result<void> save_xsave(const KvmVm& vm);
  Result<void> save_msrs(const KvmVm& vm);

  Fd fd_;
  kvm_run* run_;
  size_t run_size_bytes_;
  bool has_xcrs_ = false;
  std::vector<kvm_cpuid_entry2> cpuid_;
  PowerOn power_on_{};
};

}  // namespace rhea::vmm
