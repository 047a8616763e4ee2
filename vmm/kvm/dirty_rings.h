// DirtyRings: the rings in which KVM's vCPUs name the pages that they wrote.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "util/error.h"

namespace rhea::vmm {

/// A page in KVM's terms: `page` counts from the slot's start.
struct DirtyPage {
  uint32_t slot = 0;
  uint64_t page = 0;
};

/// The consumer's side of all rings of a VM.
///
/// An entry belongs to KVM, then (flag DIRTY) to us, and with the flag RESET to KVM again, which
/// looks at it in KVM_RESET_DIRTY_RINGS: that protects the page again and frees the entry. The
/// vCPU may be filling the ring while we empty it.
///
/// Thread: one at a time; the owner locks.
/// Owns: the rings' mappings.
class DirtyRings {
 public:
  DirtyRings(int vm_fd, uint32_t entries) : vm_fd_(vm_fd), entries_(entries) {}
  DirtyRings(const DirtyRings&) = delete;
  DirtyRings& operator=(const DirtyRings&) = delete;

  /// Errors: the ring can not be mapped.
  Result<void> add(int vcpu_fd);

  /// Appends every page that is in a ring now, and hands the entries back to KVM, which reads them
  /// at the next reset().
  void collect(std::vector<DirtyPage>& pages);
  /// Has KVM protect all collected pages again and reuse their entries: as many as collect() gave.
  void reset(size_t collected);

 private:
  struct Unmap {
    size_t size_bytes = 0;
    void operator()(kvm_dirty_gfn* ring) const noexcept;
  };
  struct Ring {
    std::unique_ptr<kvm_dirty_gfn, Unmap> entries;
    uint32_t next = 0;  // runs on; its place is taken modulo the size
  };

  const int vm_fd_;
  const uint32_t entries_;  // of each ring, a power of two
  std::vector<Ring> rings_;
};

}  // namespace rhea::vmm
