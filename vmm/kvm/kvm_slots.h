// KvmSlots: guest RAM as KVM memory slots, following the address space, and the pages written
// there.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "memory/listener.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/mutex.h"
#include "vmm/kvm/dirty_rings.h"
#include "vmm/kvm/dirty_tracking.h"

namespace rhea::vmm {

/// One memory slot for each RAM or ROM section of the system address space.
///
/// Dirty pages end in RamBlock::dirty(), and no write of a vCPU is ever missing there:
/// - cleared log: KVM's bit of a page is cleared only if the client was told of it. `reported`
///   remembers that; a bit that KVM has set since stays for the next log_sync().
/// - ring: pages are protected again before they are marked. The other way round, the client could
///   read a page between the two and miss what is written before the protection.
/// - a slot that goes while it is logged leaves all of it marked: KVM's bitmap goes with the slot,
///   and a vCPU may write between the last look at it and the deletion.
///
/// Thread: region_*, log_start, log_stop and add_ring() under the BQL (the listener's contract);
/// log_sync, log_clear and reap() on any thread, without it.
/// Errors: a slot that KVM refuses ends the process: the guest's RAM would not be what it sees. KVM
/// allocates for a log: log_start() fails if it can not. A log that can not be fetched marks the
/// whole section; one that can not be stopped costs time.
class KvmSlots final : public memory::MemoryListener {
 public:
  /// `tracking` is enabled; `ring_entries` is of kRing.
  KvmSlots(int vm_fd, unsigned max_slots, DirtyTracking tracking, uint32_t ring_entries);

  /// The ring of a vCPU that was just made. Nothing to do unless rings are used.
  Result<void> add_ring(int vcpu_fd) REQUIRES(bql);
  /// Empties the rings into the dirty bitmaps: what a vCPU does that finds its own full.
  void reap() EXCLUDES(mutex_);

  void region_add(const memory::Section& section) override;
  void region_del(const memory::Section& section) override;
  Result<void> log_start(const memory::Section& section) override;
  void log_stop(const memory::Section& section) override;
  void log_sync(const memory::Section& section) override;
  void log_clear(const memory::Section& section, uint64_t offset, uint64_t size_bytes) override;

 private:
  struct Slot {
    uint32_t number = 0;
    memory::Section section;
    bool logging = false;
    // A bit per page, for the logs that are cleared by hand: set in KVM's bitmap as in the
    // client's.
    std::vector<uint64_t> reported;
  };

  uint32_t take_number() REQUIRES(mutex_);
  Slot* find(const memory::Section& section) REQUIRES(mutex_);
  Result<void> tell_kvm(const Slot& slot) REQUIRES(mutex_);
  bool is_cleared_by_hand() const;
  void log_began(Slot& slot) REQUIRES(mutex_);
  void fetch_log(Slot& slot) REQUIRES(mutex_);
  void clear_pages(Slot& slot, uint64_t first_page, uint64_t end_page) REQUIRES(mutex_);
  void reap_rings() REQUIRES(mutex_);

  const int vm_fd_;
  const unsigned max_slots_;
  const DirtyTracking tracking_;
  Mutex mutex_{LockRank::kMemslots};
  std::map<uint64_t, Slot> slots_ GUARDED_BY(mutex_);  // by guest base address
  std::set<uint32_t> free_ GUARDED_BY(mutex_);
  uint32_t next_ GUARDED_BY(mutex_) = 0;
  std::optional<DirtyRings> rings_ GUARDED_BY(mutex_);
  // Kept from one use to the next, for their memory.
  std::vector<uint64_t> words_ GUARDED_BY(mutex_);
  std::vector<DirtyPage> pages_ GUARDED_BY(mutex_);
};

}  // namespace rhea::vmm
