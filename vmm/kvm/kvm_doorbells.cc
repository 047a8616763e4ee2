#include "vmm/kvm/kvm_doorbells.h"

#include <linux/kvm.h>

#include "util/log.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {

void KvmDoorbells::apply(const memory::Section& section,
                         const memory::MemoryRegion::Doorbell& doorbell, Action action) {
  kvm_ioeventfd request{};
  request.addr = section.base.value + (doorbell.offset - section.offset_in_region);
  request.len = doorbell.size_bytes;
  request.fd = doorbell.fd;
  if (space_ == Space::kIo) request.flags |= KVM_IOEVENTFD_FLAG_PIO;
  if (action == Action::kDeassign) request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
  if (doorbell.match) {
    request.datamatch = *doorbell.match;
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
  }
  if (auto done = KVM_IOCTL(vm_fd_, KVM_IOEVENTFD, &request); !done) {
    RHEA_LOG(kVmm, kWarn, "doorbell at {:#x}: {}", request.addr, done.error().message());
  }
}

void KvmDoorbells::doorbell_add(const memory::Section& section,
                                const memory::MemoryRegion::Doorbell& doorbell) {
  apply(section, doorbell, Action::kAssign);
}

void KvmDoorbells::doorbell_del(const memory::Section& section,
                                const memory::MemoryRegion::Doorbell& doorbell) {
  apply(section, doorbell, Action::kDeassign);
}

}  // namespace rhea::vmm
