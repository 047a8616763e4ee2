#include "vmm/kvm/dirty_rings.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "util/check.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {

void DirtyRings::Unmap::operator()(kvm_dirty_gfn* ring) const noexcept {
  ::munmap(ring, size_bytes);
}

Result<void> DirtyRings::add(int vcpu_fd) {
  const size_t size_bytes = entries_ * sizeof(kvm_dirty_gfn);
  void* mapped = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
                        KVM_DIRTY_LOG_PAGE_OFFSET * ::sysconf(_SC_PAGESIZE));
  if (mapped == MAP_FAILED) return fail_errno(errno, "cannot map a vCPU's dirty ring");
  rings_.push_back(
      {.entries = {static_cast<kvm_dirty_gfn*>(mapped), Unmap{.size_bytes = size_bytes}}});
  return ok();
}

void DirtyRings::collect(std::vector<DirtyPage>& pages) {
  for (Ring& ring : rings_) {
    // Once round at most: the entries that we hand back are free only after a reset.
    for (uint32_t taken = 0; taken < entries_; ++taken) {
      kvm_dirty_gfn& entry = ring.entries.get()[ring.next % entries_];
      const std::atomic_ref<uint32_t> flags(entry.flags);
      // acquire: pairs with KVM's release of the flag: slot and offset are there
      if ((flags.load(std::memory_order_acquire) & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY) {
        break;
      }
      pages.push_back({.slot = entry.slot, .page = entry.offset});
      // release: pairs with KVM's acquire in the reset: it reuses the entry when we have read it
      flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
      ++ring.next;
    }
  }
}

void DirtyRings::reset(size_t collected) {
  // Since Linux 6.16 a signal ends the call early, and it is no error that some entries are left.
  while (collected > 0) {
    const auto done = static_cast<size_t>(MUST(KVM_IOCTL(vm_fd_, KVM_RESET_DIRTY_RINGS, 0)));
    RHEA_CHECK(done <= collected, "{} entries reset, {} collected", done, collected);
    collected -= done;
  }
}

}  // namespace rhea::vmm
