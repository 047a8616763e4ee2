#include "vmm/kvm/kvm_slots.h"

#include <linux/kvm.h>

#include "memory/ram_block.h"
#include "util/check.h"
#include "util/log.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr uint64_t kPageSize = 4096;

bool is_page_aligned(const memory::Section& section) {
  return ((section.base.value | section.size_bytes | section.offset_in_ram) % kPageSize) == 0;
}

}  // namespace

uint32_t KvmSlots::take_number() {
  if (!free_.empty()) return free_.extract(free_.begin()).value();
  RHEA_CHECK(next_ < max_slots_, "all {} KVM memory slots are in use", max_slots_);
  return next_++;
}

void KvmSlots::region_add(const memory::Section& section) {
  bql.assert_held();
  if (section.ram == nullptr) return;
  if (!is_page_aligned(section)) {
    // KVM maps pages; what is left out is reached through MMIO exits, which end in the same RAM.
    RHEA_LOG(kVmm, kWarn, "RAM at {:#x} is not page aligned and gets no KVM slot",
             section.base.value);
    return;
  }
  const uint32_t number = take_number();
  kvm_userspace_memory_region region{};
  region.slot = number;
  region.flags = section.read_only ? uint32_t{KVM_MEM_READONLY} : 0;
  region.guest_phys_addr = section.base.value;
  region.memory_size = section.size_bytes;
  region.userspace_addr = reinterpret_cast<uintptr_t>(section.ram->host() + section.offset_in_ram);
  RHEA_TRACE(kVmm, "kvm_slot_add slot={} gpa={:#x} size={:#x} flags={:#x}", number,
             section.base.value, section.size_bytes, region.flags);
  MUST(KVM_IOCTL(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region));
  numbers_.emplace(section.base.value, number);
}

void KvmSlots::region_del(const memory::Section& section) {
  bql.assert_held();
  const auto found = numbers_.find(section.base.value);
  if (section.ram == nullptr || found == numbers_.end()) return;
  kvm_userspace_memory_region region{};
  region.slot = found->second;
  region.guest_phys_addr = section.base.value;
  region.memory_size = 0;  // deletes the slot
  RHEA_TRACE(kVmm, "kvm_slot_del slot={} gpa={:#x}", found->second, section.base.value);
  MUST(KVM_IOCTL(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region));
  free_.insert(found->second);
  numbers_.erase(found);
}

}  // namespace rhea::vmm
