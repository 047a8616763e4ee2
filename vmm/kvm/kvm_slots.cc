#include "vmm/kvm/kvm_slots.h"

#include <linux/kvm.h>

#include <algorithm>
#include <span>
#include <utility>

#include "memory/ram_block.h"
#include "util/check.h"
#include "util/log.h"
#include "util/sync_point.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr uint64_t kPageSize = memory::kDirtyPageBytes;
constexpr uint64_t kWordPages = memory::kPagesPerWord;
// KVM holds the lock that page faults need while it clears: 64 MiB at a time.
constexpr uint64_t kClearChunkPages = 16384;

bool is_page_aligned(const memory::Section& section) {
  return ((section.base.value | section.size_bytes | section.offset_in_ram) % kPageSize) == 0;
}

uint64_t pages_of(const memory::Section& section) { return section.size_bytes / kPageSize; }

/// No vCPU writes to what is read-only for the guest.
bool is_logged(const memory::Section& section) {
  return section.dirty_logging && !section.read_only;
}

uint64_t words_of(const memory::Section& section) {
  return (pages_of(section) + kWordPages - 1) / kWordPages;
}

void mark_all(const memory::Section& section) {
  section.ram->dirty().mark(section.offset_in_ram, section.size_bytes);
}

/// Ors the section's bits into those of its RAM block, whose pages begin elsewhere.
void merge(const memory::Section& section, std::span<const uint64_t> words) {
  const uint64_t first_page = section.offset_in_ram / kPageSize;
  const unsigned shift = first_page % kWordPages;
  if (shift == 0) return section.ram->dirty().merge(first_page / kWordPages, words);
  std::vector<uint64_t> shifted(words.size() + 1);
  for (size_t i = 0; i < words.size(); ++i) {
    shifted[i] |= words[i] << shift;
    shifted[i + 1] = words[i] >> (kWordPages - shift);
  }
  section.ram->dirty().merge(first_page / kWordPages, shifted);
}

/// The bits of word `index` that stand for pages of [first_page, end_page).
uint64_t mask_of(uint64_t index, uint64_t first_page, uint64_t end_page) {
  const uint64_t low = std::max(first_page, index * kWordPages);
  const uint64_t high = std::min(end_page, (index + 1) * kWordPages);
  if (low >= high) return 0;
  const uint64_t ones = ~uint64_t{0} >> (kWordPages - (high - low));
  return ones << (low % kWordPages);
}

}  // namespace

KvmSlots::KvmSlots(int vm_fd, unsigned max_slots, DirtyTracking tracking, uint32_t ring_entries)
    : vm_fd_(vm_fd), max_slots_(max_slots), tracking_(tracking) {
  if (tracking == DirtyTracking::kRing) rings_.emplace(vm_fd, ring_entries);
}

Result<void> KvmSlots::add_ring(int vcpu_fd) {
  const MutexLock lock(mutex_);
  if (rings_) TRY(rings_->add(vcpu_fd));
  return ok();
}

uint32_t KvmSlots::take_number() {
  if (!free_.empty()) return free_.extract(free_.begin()).value();
  RHEA_CHECK(next_ < max_slots_, "all {} KVM memory slots are in use", max_slots_);
  return next_++;
}

/// A reader of an older view may ask for a section that has gone or changed since: it is not found.
KvmSlots::Slot* KvmSlots::find(const memory::Section& section) {
  const auto found = slots_.find(section.base.value);
  if (section.ram == nullptr || found == slots_.end()) return nullptr;
  const memory::Section& present = found->second.section;
  const bool same = present.ram == section.ram && present.size_bytes == section.size_bytes &&
                    present.offset_in_ram == section.offset_in_ram;
  return same ? &found->second : nullptr;
}

Result<void> KvmSlots::tell_kvm(const Slot& slot) {
  const memory::Section& section = slot.section;
  kvm_userspace_memory_region region{};
  region.slot = slot.number;
  if (section.read_only) region.flags |= KVM_MEM_READONLY;
  if (slot.logging) region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
  region.guest_phys_addr = section.base.value;
  region.memory_size = section.size_bytes;
  region.userspace_addr = reinterpret_cast<uintptr_t>(section.ram->host() + section.offset_in_ram);
  RHEA_TRACE(kVmm, "kvm_slot_set slot={} gpa={:#x} size={:#x} flags={:#x}", slot.number,
             section.base.value, section.size_bytes, region.flags);
  TRY(KVM_IOCTL(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region));
  return ok();
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
  const MutexLock lock(mutex_);
  Slot& slot = slots_[section.base.value];
  slot = {
      .number = take_number(), .section = section, .logging = is_logged(section), .reported = {}};
  MUST(tell_kvm(slot));
  if (slot.logging) log_began(slot);
}

void KvmSlots::region_del(const memory::Section& section) {
  bql.assert_held();
  const MutexLock lock(mutex_);
  const auto found = slots_.find(section.base.value);
  if (section.ram == nullptr || found == slots_.end()) return;
  const Slot& slot = found->second;
  kvm_userspace_memory_region region{};
  region.slot = slot.number;
  region.guest_phys_addr = section.base.value;
  region.memory_size = 0;  // deletes the slot
  RHEA_TRACE(kVmm, "kvm_slot_del slot={} gpa={:#x}", slot.number, section.base.value);
  MUST(KVM_IOCTL(vm_fd_, KVM_SET_USER_MEMORY_REGION, &region));
  if (slot.logging) mark_all(section);
  // What the rings still say of this slot must not be taken for the next one of its number.
  if (rings_) reap_rings();
  free_.insert(slot.number);
  slots_.erase(found);
}

bool KvmSlots::is_cleared_by_hand() const {
  return tracking_ == DirtyTracking::kClearedLog || tracking_ == DirtyTracking::kInitiallySetLog;
}

/// KVM logs from here on.
void KvmSlots::log_began(Slot& slot) {
  if (!is_cleared_by_hand()) return;
  slot.reported.assign(words_of(slot.section), 0);
  if (tracking_ != DirtyTracking::kInitiallySetLog) return;
  // KVM's bits are all set: so are the client's, or no clear would ever take them away.
  std::ranges::fill(slot.reported, ~uint64_t{0});
  mark_all(slot.section);
}

Result<void> KvmSlots::log_start(const memory::Section& section) {
  bql.assert_held();
  const MutexLock lock(mutex_);
  Slot* slot = find(section);
  if (slot == nullptr || !is_logged(section)) return ok();
  slot->logging = true;
  if (auto told = tell_kvm(*slot); !told) {
    slot->logging = false;
    return std::move(told).error().context(
        fmt::format("The dirty log of {:#x} bytes of RAM at {:#x} can not be started",
                    section.size_bytes, section.base.value));
  }
  log_began(*slot);
  return ok();
}

void KvmSlots::log_stop(const memory::Section& section) {
  bql.assert_held();
  const MutexLock lock(mutex_);
  Slot* slot = find(section);
  if (slot == nullptr || !slot->logging) return;
  slot->logging = false;
  slot->reported = {};
  if (const auto told = tell_kvm(*slot); !told) {
    // Nobody looks at KVM's bits until they are wanted again. They may be old then, which is as if
    // the guest had written there meanwhile.
    RHEA_LOG(kVmm, kWarn, "RAM at {:#x} goes on being logged: {}", section.base.value,
             told.error().message());
  }
}

void KvmSlots::log_sync(const memory::Section& section) {
  const MutexLock lock(mutex_);
  if (rings_) return reap_rings();
  Slot* slot = find(section);
  if (slot != nullptr && slot->logging) fetch_log(*slot);
}

void KvmSlots::fetch_log(Slot& slot) {
  words_.assign(words_of(slot.section), 0);
  kvm_dirty_log log{};
  log.slot = slot.number;
  log.dirty_bitmap = words_.data();
  if (auto done = KVM_IOCTL(vm_fd_, KVM_GET_DIRTY_LOG, &log); !done) {
    RHEA_LOG(kVmm, kError, "RAM at {:#x} counts as written as a whole: {}", slot.section.base.value,
             done.error().message());
    return mark_all(slot.section);
  }
  for (size_t i = 0; i < slot.reported.size(); ++i) slot.reported[i] |= words_[i];
  merge(slot.section, words_);
}

void KvmSlots::log_clear(const memory::Section& section, uint64_t offset, uint64_t size_bytes) {
  const MutexLock lock(mutex_);
  Slot* slot = find(section);
  if (slot == nullptr || !slot->logging || slot->reported.empty() || size_bytes == 0) return;
  RHEA_SYNC_POINT("KvmSlots::log_clear: the client's bits are clear, KVM's not");
  uint64_t page = offset / kPageSize;
  const uint64_t end =
      std::min((offset + size_bytes + kPageSize - 1) / kPageSize, pages_of(section));
  while (page < end) {
    const uint64_t chunk_end = std::min(end, (page / kClearChunkPages + 1) * kClearChunkPages);
    clear_pages(*slot, page, chunk_end);
    page = chunk_end;
  }
}

/// KVM takes ranges that begin, and unless they reach the slot's end have a size, of whole words.
/// The bits of pages outside of [first_page, end_page) are left zero and so change nothing.
void KvmSlots::clear_pages(Slot& slot, uint64_t first_page, uint64_t end_page) {
  const uint64_t first_word = first_page / kWordPages;
  const uint64_t end_word = (end_page + kWordPages - 1) / kWordPages;
  words_.assign(end_word - first_word, 0);
  bool any = false;
  for (uint64_t w = first_word; w < end_word; ++w) {
    const uint64_t bits = slot.reported[w] & mask_of(w, first_page, end_page);
    words_[w - first_word] = bits;
    any |= bits != 0;
  }
  if (!any) return;
  kvm_clear_dirty_log request{};
  request.slot = slot.number;
  request.first_page = first_word * kWordPages;
  request.num_pages = static_cast<uint32_t>(
      std::min(end_word * kWordPages, pages_of(slot.section)) - request.first_page);
  request.dirty_bitmap = words_.data();
  if (auto done = KVM_IOCTL(vm_fd_, KVM_CLEAR_DIRTY_LOG, &request); !done) {
    // The pages stay dirty in KVM, and the next fetch reports them again: slower, not wrong.
    RHEA_LOG(kVmm, kWarn, "RAM at {:#x}: {}", slot.section.base.value, done.error().message());
    return;
  }
  for (uint64_t w = first_word; w < end_word; ++w) slot.reported[w] &= ~words_[w - first_word];
}

void KvmSlots::reap() {
  const MutexLock lock(mutex_);
  if (rings_) reap_rings();
}

void KvmSlots::reap_rings() {
  pages_.clear();
  rings_->collect(pages_);
  if (pages_.empty()) return;
  RHEA_SYNC_POINT("KvmSlots::reap: collected, not yet protected");
  rings_->reset(pages_.size());
  RHEA_SYNC_POINT("KvmSlots::reap: protected, not yet marked");
  std::vector<const Slot*> by_number(next_);
  for (const auto& [base, slot] : slots_) by_number[slot.number] = &slot;
  for (const DirtyPage& dirty : pages_) {
    // An entry may outlive its slot.
    const Slot* slot = dirty.slot < by_number.size() ? by_number[dirty.slot] : nullptr;
    if (slot == nullptr || dirty.page >= pages_of(slot->section)) continue;
    slot->section.ram->dirty().mark(slot->section.offset_in_ram + dirty.page * kPageSize,
                                    kPageSize);
  }
}

}  // namespace rhea::vmm
