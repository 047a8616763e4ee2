// KvmVm: one virtual machine of the kernel's KVM, below any machine model.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// The /dev/kvm and VM descriptors, and the in-kernel irqchip and PIT once they are made.
///
/// Thread: creation on main; the ioctls may be called by any thread.
/// Errors of create(): /dev/kvm missing or forbidden, a wrong API version, a missing capability,
/// each named in the message.
class KvmVm {
 public:
  static Result<std::unique_ptr<KvmVm>> create();
  /// The PIC, the IOAPIC and the PIT; vCPUs made from here on have a LAPIC each.
  Result<void> create_irqchip();

  int fd() const noexcept { return vm_.get(); }
  int device_fd() const noexcept { return device_.get(); }
  /// KVM_CHECK_EXTENSION on the VM: 0 if absent.
  int capability(int number) const noexcept;
  /// The most vCPUs KVM allows in a VM.
  unsigned max_vcpus() const noexcept;
  /// Bytes of the kvm_run mapping of a vCPU.
  size_t run_size_bytes() const noexcept { return run_size_bytes_; }

  /// kvmclock as the guests see it, in nanoseconds; set while no vCPU runs.
  Result<uint64_t> clock() const;
  Result<void> set_clock(uint64_t nanoseconds);

  /// The irqchip and PIT as they were at power-on, restored by reset_irqchip().
  Result<void> save_power_on_irqchip();
  Result<void> reset_irqchip();

 private:
  KvmVm(Fd device, Fd vm, size_t run_size_bytes)
      : device_(std::move(device)), vm_(std::move(vm)), run_size_bytes_(run_size_bytes) {}

  struct PowerOnIrqchip {
    kvm_irqchip chips[3];
    kvm_pit_state2 pit;
  };

  Fd device_;
  Fd vm_;
  size_t run_size_bytes_;
  PowerOnIrqchip power_on_{};
};

/// Whether /dev/kvm is there and may be opened, for query-kvm.
bool kvm_present() noexcept;

}  // namespace rhea::vmm
