// KvmIrqs: interrupt lines of the machine, delivered by the in-kernel PIC, IOAPIC and LAPICs.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "devices/irq.h"
#include "util/error.h"

namespace rhea::vmm {

/// The GSI routing table of the `pc` machine. GSIs 0-15 are ISA interrupts and go to the PIC and
/// the IOAPIC, 16-23 to the IOAPIC alone. GSI 0 (the PIT) arrives at IOAPIC pin 2, as the MADT's
/// override says. Thread: set_irq() from any thread.
class KvmIrqs final : public devices::IrqSink {
 public:
  explicit KvmIrqs(int vm_fd) : vm_fd_(vm_fd) {}

  /// Installs the routing table. Before any vCPU runs.
  Result<void> install_routes();
  void set_irq(unsigned gsi, bool level) override;

  /// A write to the eventfd `fd` is a pulse of `gsi`, raised by the kernel without us. The kernel
  /// keeps the eventfd until it is detached. Thread: any.
  /// Errors: KVM_IRQFD refuses, kBusy if `fd` is attached already.
  Result<void> attach_eventfd(unsigned gsi, int fd);
  Result<void> detach_eventfd(unsigned gsi, int fd);

 private:
  const int vm_fd_;
};

}  // namespace rhea::vmm
