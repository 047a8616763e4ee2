// KvmSlots: guest RAM as KVM memory slots, following the address space.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "memory/listener.h"
#include "util/bql.h"

namespace rhea::vmm {

/// One memory slot for each RAM or ROM section of the system address space.
///
/// Thread: BQL (the listener's contract).
/// Errors: a slot that KVM refuses ends the process: the guest's RAM would not be what it sees.
class KvmSlots final : public memory::MemoryListener {
 public:
  explicit KvmSlots(int vm_fd, unsigned max_slots) : vm_fd_(vm_fd), max_slots_(max_slots) {}

  void region_add(const memory::Section& section) override;
  void region_del(const memory::Section& section) override;

 private:
  uint32_t take_number() REQUIRES(bql);

  const int vm_fd_;
  const unsigned max_slots_;
  std::map<uint64_t, uint32_t> numbers_ GUARDED_BY(bql);  // guest base address -> slot
  std::set<uint32_t> free_ GUARDED_BY(bql);
  uint32_t next_ GUARDED_BY(bql) = 0;
};

}  // namespace rhea::vmm
