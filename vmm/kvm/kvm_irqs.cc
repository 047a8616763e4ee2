#include "vmm/kvm/kvm_irqs.h"

#include <algorithm>
#include <utility>

#include "util/check.h"
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

kvm_irq_routing_entry message_route(uint32_t gsi, const devices::MsiMessage& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32);
  entry.u.msi.data = message.data;
  return entry;
}

/// The table holds the wires too, and the GSIs of messages start behind the IOAPIC's.
unsigned messages_within(unsigned max_routes, size_t wires) {
  const size_t taken = std::max<size_t>(wires, pc::kIoApicPins);
  return max_routes > taken ? static_cast<unsigned>(max_routes - taken) : 0;
}

}  // namespace

KvmIrqs::KvmIrqs(int vm_fd, unsigned max_routes)
    : vm_fd_(vm_fd),
      wires_(pc_routes()),
      max_messages_(messages_within(max_routes, wires_.size())) {}

Result<void> KvmIrqs::install_routes() { return set_table(); }

Result<void> KvmIrqs::set_table() {
  std::vector<kvm_irq_routing_entry> routes = wires_;
  for (const auto& [gsi, message] : messages_) {
    if (message) routes.push_back(message_route(gsi, *message));
  }
  KvmRoutingArray table(routes.size());
  std::ranges::copy(routes, table.elements().begin());
  TRY(kvm_ioctl(vm_fd_, kKvmSetGsiRouting, table.get(), "KVM_SET_GSI_ROUTING"));
  return ok();
}

Result<unsigned> KvmIrqs::reserve_gsi() {
  if (messages_.size() >= max_messages_) {
    return fail(ErrorKind::kResource, "all {} interrupt messages that KVM can route are in use",
                max_messages_);
  }
  unsigned gsi = pc::kIoApicPins;
  for (const auto& [used, message] : messages_) {
    if (used != gsi) break;
    ++gsi;
  }
  messages_.emplace(gsi, std::nullopt);
  return gsi;
}

void KvmIrqs::release_gsi(unsigned gsi) {
  // The kernel's table may keep the route until it is next set: nothing raises this GSI.
  RHEA_CHECK(messages_.erase(gsi) == 1, "gsi {} is not reserved", gsi);
}

Result<void> KvmIrqs::route_gsi(unsigned gsi, const devices::MsiMessage& message) {
  auto& route = messages_.at(gsi);
  const auto old = std::exchange(route, message);
  if (old == message) return ok();
  if (auto done = set_table(); !done) {
    route = old;
    return std::move(done).error();
  }
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
