#include "vmm/kvm/dirty_tracking.h"

#include <bit>

#include "util/log.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

Result<void> enable_capability(const KvmVm& vm, int number, uint64_t argument) {
  kvm_enable_cap request{};
  request.cap = static_cast<uint32_t>(number);
  request.args[0] = argument;
  TRY(KVM_IOCTL(vm.fd(), KVM_ENABLE_CAP, &request));
  return ok();
}

/// The two differ in what an architecture must order; on x86 they are the same. 0: there is none.
int ring_capability(const KvmVm& vm) {
  for (const int number : {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING}) {
    if (vm.capability(number) > 0) return number;
  }
  return 0;
}

Result<void> enable_ring(const KvmVm& vm, uint32_t entries) {
  if (!std::has_single_bit(entries)) {
    return fail(ErrorKind::kInvalidArgument, "dirty-ring-size must be a power of two");
  }
  const int number = ring_capability(vm);
  if (number == 0) {
    return fail(ErrorKind::kUnsupported,
                "dirty-ring-size={}: the host's KVM has no dirty ring (KVM_CAP_DIRTY_LOG_RING)",
                entries);
  }
  const auto most_bytes = static_cast<uint64_t>(vm.capability(number));
  if (entries * sizeof(kvm_dirty_gfn) > most_bytes) {
    return fail(ErrorKind::kInvalidArgument,
                "dirty-ring-size={}: the host's KVM allows {} entries at most", entries,
                most_bytes / sizeof(kvm_dirty_gfn));
  }
  // What KVM keeps free for itself, and with it the least size, depends on the processor.
  auto enabled = enable_capability(vm, number, entries * sizeof(kvm_dirty_gfn));
  if (!enabled) {
    return fail(enabled.error().kind(), "dirty-ring-size={} is refused, perhaps too small: {}",
                entries, enabled.error().message());
  }
  return ok();
}

DirtyTracking enable_log(const KvmVm& vm, DirtyTracking best) {
  const int offered = vm.capability(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  uint64_t flags = 0;
  if (best != DirtyTracking::kLog) flags |= KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
  if (best == DirtyTracking::kInitiallySetLog) flags |= KVM_DIRTY_LOG_INITIALLY_SET;
  flags &= static_cast<uint64_t>(offered);
  if (flags == 0) return DirtyTracking::kLog;
  if (auto done = enable_capability(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags); !done) {
    RHEA_LOG(kVmm, kWarn, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: {}", done.error().message());
    return DirtyTracking::kLog;
  }
  return (flags & KVM_DIRTY_LOG_INITIALLY_SET) != 0 ? DirtyTracking::kInitiallySetLog
                                                    : DirtyTracking::kClearedLog;
}

}  // namespace

std::string_view to_string(DirtyTracking tracking) noexcept {
  switch (tracking) {
    case DirtyTracking::kLog:
      return "a bitmap that is cleared when it is fetched";
    case DirtyTracking::kClearedLog:
      return "a bitmap that is cleared in pieces";
    case DirtyTracking::kInitiallySetLog:
      return "a bitmap that is cleared in pieces and begins set";
    case DirtyTracking::kRing:
      return "a ring for each vCPU";
  }
  return "unknown";
}

Result<DirtyTracking> enable_dirty_tracking(const KvmVm& vm, const DirtyTrackingConfig& config) {
  auto tracking = DirtyTracking::kRing;
  if (config.ring_entries != 0) {
    TRY(enable_ring(vm, config.ring_entries));
    RHEA_LOG(kVmm, kInfo, "KVM reports dirty pages by {}, {} entries", to_string(tracking),
             config.ring_entries);
    return tracking;
  }
  tracking = enable_log(vm, config.best_log);
  RHEA_LOG(kVmm, kInfo, "KVM reports dirty pages by {}", to_string(tracking));
  return tracking;
}

}  // namespace rhea::vmm
