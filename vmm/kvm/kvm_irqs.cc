#include "vmm/kvm/kvm_irqs.h"

#include <algorithm>

#include "util/log.h"
#include "vmm/kvm/kvm_array.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

constexpr uint32_t kIsaIrqs = 16;
constexpr uint32_t kPitLine = 0;  // where KVM's PIT raises its interrupt

kvm_irq_routing_entry chip_route(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip.irqchip = chip;
  entry.u.irqchip.pin = pin;
  return entry;
}

std::vector<kvm_irq_routing_entry> pc_routes() {
  std::vector<kvm_irq_routing_entry> routes;
  for (uint32_t irq = 0; irq < kIsaIrqs; ++irq) {
    if (irq == pc::kPitGsi) continue;  // the cascade: nothing drives it
    routes.push_back(chip_route(
        irq, irq < 8 ? uint32_t{KVM_IRQCHIP_PIC_MASTER} : uint32_t{KVM_IRQCHIP_PIC_SLAVE},
        irq % 8));
  }
  for (uint32_t gsi = 0; gsi < pc::kIoApicPins; ++gsi) {
    if (gsi == pc::kPitGsi) continue;
    routes.push_back(chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi == kPitLine ? pc::kPitGsi : gsi));
  }
  return routes;
}

}  // namespace

Result<void> KvmIrqs::install_routes() {
  const std::vector<kvm_irq_routing_entry> routes = pc_routes();
  KvmRoutingArray table(routes.size());
  std::ranges::copy(routes, table.elements().begin());
  TRY(kvm_ioctl(vm_fd_, kKvmSetGsiRouting, table.get(), "KVM_SET_GSI_ROUTING"));
  return ok();
}

void KvmIrqs::set_irq(unsigned gsi, bool level) {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  if (auto done = KVM_IOCTL(vm_fd_, KVM_IRQ_LINE, &line); !done) {
    // Only a GSI without a route fails, and the table above is fixed.
    RHEA_LOG(kVmm, kError, "gsi {}: {}", gsi, done.error().message());
  }
}

Result<void> KvmIrqs::attach_eventfd(unsigned gsi, int fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(fd);
  request.gsi = gsi;
  TRY(KVM_IOCTL(vm_fd_, KVM_IRQFD, &request));
  return ok();
}

Result<void> KvmIrqs::detach_eventfd(unsigned gsi, int fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(fd);
  request.gsi = gsi;
  request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  TRY(KVM_IOCTL(vm_fd_, KVM_IRQFD, &request));
  return ok();
}

}  // namespace rhea::vmm
