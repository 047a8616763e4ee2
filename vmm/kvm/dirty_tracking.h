// How KVM tells which pages of RAM the vCPUs wrote.
#pragma once

#include <cstdint>
#include <string_view>

#include "util/error.h"
#include "vmm/kvm/kvm_vm.h"

namespace rhea::vmm {

/// From the plainest to the most capable log, and the ring.
enum class DirtyTracking : uint8_t {
  /// A bitmap per slot; fetching it clears it and write-protects every page again, at once.
  kLog,
  /// A bitmap per slot; pages are cleared and protected when the client is about to read them, in
  /// pieces, so that no fetch stops the vCPUs for long and no page is reported twice for one pass.
  kClearedLog,
  /// As kClearedLog, and logging begins with every page dirty and none protected: switching it on
  /// costs nothing, and the first pass protects what it copies.
  kInitiallySetLog,
  /// A ring per vCPU that it fills with page numbers; its cost goes with the pages that are
  /// written, not with those that there are. A vCPU whose ring is full waits until it is emptied.
  kRing,
};

std::string_view to_string(DirtyTracking tracking) noexcept;

struct DirtyTrackingConfig {
  /// Pages that a vCPU's ring holds, a power of two; 0: a bitmap per slot.
  uint32_t ring_entries = 0;
  /// The log to use at most, where KVM has it; tests lower it.
  DirtyTracking best_log = DirtyTracking::kInitiallySetLog;
};

/// Switches on what `config` asks for and KVM has, and logs the choice. Before the first vCPU.
/// Errors: a ring of that size, or any, can not be had; the log has something to fall back on.
Result<DirtyTracking> enable_dirty_tracking(const KvmVm& vm, const DirtyTrackingConfig& config);

}  // namespace rhea::vmm
