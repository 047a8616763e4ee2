// KvmIrqs: the GSI routing table: interrupt lines of the board, and numbers for messages.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "devices/irq.h"
#include "devices/msi.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::vmm {

/// The GSI routing table of the `pc` machine. GSIs 0-15 are ISA interrupts and go to the PIC and
/// the IOAPIC, 16-23 to the IOAPIC alone. GSI 0 (the PIT) arrives at IOAPIC pin 2, as the MADT's
/// override says. From 24 on a GSI is a message, see KvmMsi.
/// Thread: set_irq() and the eventfds from any thread, the table under the BQL.
class KvmIrqs final : public devices::IrqSink {
 public:
  /// `max_routes` is KVM_CAP_IRQ_ROUTING's answer: as many entries the table may have, and every
  /// GSI lies below it.
  KvmIrqs(int vm_fd, unsigned max_routes);

  /// Installs the routing table. Before any vCPU runs.
  Result<void> install_routes() REQUIRES(bql);
  void set_irq(unsigned gsi, bool level) override;

  /// A GSI of the caller's own, which leads nowhere yet. Reserved at once, so that a device that
  /// was made can not run out later. Errors: kResource, all are in use.
  Result<unsigned> reserve_gsi() REQUIRES(bql);
  /// Gives it back. No eventfd is attached to it any more.
  void release_gsi(unsigned gsi) REQUIRES(bql);
  /// Where a reserved GSI leads. What eventfds raise meanwhile goes to the old message or to the
  /// new. Errors: KVM refuses; the table stays as it was.
  Result<void> route_gsi(unsigned gsi, const devices::MsiMessage& message) REQUIRES(bql);
  /// How many can be reserved in all.
  unsigned max_messages() const noexcept { return max_messages_; }

  /// A write to the eventfd `fd` is a pulse of `gsi`, raised by the kernel without us. What it has
  /// counted before is one pulse too. The kernel keeps the eventfd until it is detached.
  /// Errors: KVM_IRQFD refuses, kBusy if `fd` is attached already.
  Result<void> attach_eventfd(unsigned gsi, int fd);
  /// When this returns every pulse has been raised, and the eventfd holds those alone that came
  /// after it was taken off.
  Result<void> detach_eventfd(unsigned gsi, int fd);

 private:
  Result<void> set_table() REQUIRES(bql);

  const int vm_fd_;
  const std::vector<kvm_irq_routing_entry> wires_;
  const unsigned max_messages_;
  // The reserved GSIs, and where they lead.
  std::map<unsigned, std::optional<devices::MsiMessage>> messages_ GUARDED_BY(bql);
};

}  // namespace rhea::vmm
