#include "vmm/kvm/kvm_msrs.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <set>
#include <utility>

#include "util/log.h"
#include "vmm/kvm/kvm_array.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

constexpr size_t kMaxMsrsAtOnce = 255;  // a call of 256 or more is E2BIG

/// How many, from the first on, KVM takes in one call: it stops at the first that it does not.
/// Errors: the call fails as a whole, which says nothing of any register.
Result<size_t> transfer(int vcpu_fd, unsigned long request, std::span<const kvm_msr_entry> entries,
                        std::vector<kvm_msr_entry>& taken) {
  KvmMsrArray batch(std::min(entries.size(), kMaxMsrsAtOnce));
  std::ranges::copy(entries.first(batch.count()), batch.elements().begin());
  const char* what = request == kKvmGetMsrs ? "KVM_GET_MSRS" : "KVM_SET_MSRS";
  const auto count = static_cast<size_t>(TRY(kvm_ioctl(vcpu_fd, request, batch.get(), what)));
  std::ranges::copy(batch.elements().first(count), std::back_inserter(taken));
  return count;
}

/// Those that KVM takes; the next call goes on behind one that it does not.
Result<std::vector<kvm_msr_entry>> transfer_possible(int vcpu_fd, unsigned long request,
                                                     std::span<const kvm_msr_entry> entries) {
  std::vector<kvm_msr_entry> taken;
  while (!entries.empty()) {
    const size_t asked = std::min(entries.size(), kMaxMsrsAtOnce);
    const size_t count = TRY(transfer(vcpu_fd, request, entries, taken));
    entries = entries.subspan(count);
    if (count == asked) continue;
    RHEA_LOG(kVmm, kDebug, "KVM can not {} msr {:#x}", request == kKvmGetMsrs ? "read" : "set",
             entries.front().index);
    entries = entries.subspan(1);
  }
  return taken;
}

struct Range {
  uint32_t first, last;
  bool contains(uint32_t index) const { return index >= first && index <= last; }
};

// [SDM vol. 3, 12.11.2]: fixed ranges, default type, and eight variable ranges, as many as KVM has.
constexpr Range kMtrrs[] = {
    {0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff}};
constexpr uint32_t kFirstBank = 0x400;  // four registers each [SDM vol. 3, 16.3.2]
constexpr Range kNoState[] = {
    {0x11, 0x12},                // old names of kvmclock's two registers
    {0x4b56'4d00, 0x4b56'4d00},  // its wall clock: a store writes into the guest's memory
    {0x4000'0000, 0x4000'01ff},  // Hyper-V
};

bool is_state(uint32_t index) {
  return std::ranges::none_of(kNoState, [index](const Range& r) { return r.contains(index); });
}

Result<void> add_machine_check_banks(int vcpu_fd, std::set<uint32_t>& indices) {
  const uint32_t index = msr::kMachineCheckCapabilities;
  const auto capabilities = TRY(read_msrs(vcpu_fd, {&index, 1}));
  if (capabilities.empty()) return ok();
  const auto banks = static_cast<uint32_t>(capabilities.front().data & 0xff);
  for (uint32_t i = 0; i < banks * 4; ++i) indices.insert(kFirstBank + i);
  return ok();
}

int rank(uint32_t index) {
  if (index == msr::kTsc || index == msr::kTscAdjust) return 0;
  return index == msr::kTscDeadline ? 2 : 1;
}

}  // namespace

Result<std::vector<uint32_t>> msr_indices(int kvm_device_fd) {
  KvmMsrList probe(0);  // E2BIG, and the count that would fit
  if (::ioctl(kvm_device_fd, kKvmGetMsrIndexList, probe.get()) < 0 && errno != E2BIG) {
    return fail_errno(errno, "KVM_GET_MSR_INDEX_LIST");
  }
  KvmMsrList list(probe.count());
  TRY(kvm_ioctl(kvm_device_fd, kKvmGetMsrIndexList, list.get(), "KVM_GET_MSR_INDEX_LIST"));
  return std::vector<uint32_t>(list.elements().begin(), list.elements().end());
}

Result<std::vector<uint32_t>> state_msr_indices(int kvm_device_fd, int vcpu_fd) {
  const std::vector<uint32_t> named = TRY(msr_indices(kvm_device_fd));
  std::set<uint32_t> indices(named.begin(), named.end());
  for (const Range& range : kMtrrs) {
    for (uint32_t i = range.first; i <= range.last; ++i) indices.insert(i);
  }
  TRY(add_machine_check_banks(vcpu_fd, indices));
  std::erase_if(indices, [](uint32_t index) { return !is_state(index); });
  const std::vector<uint32_t> candidates(indices.begin(), indices.end());
  const auto entries = TRY(read_msrs(vcpu_fd, candidates));
  std::vector<uint32_t> present;
  for (const kvm_msr_entry& entry : entries) present.push_back(entry.index);
  std::ranges::sort(present, {}, [](uint32_t index) { return std::pair(rank(index), index); });
  return present;
}

Result<std::vector<kvm_msr_entry>> read_msrs(int vcpu_fd, std::span<const uint32_t> indices) {
  std::vector<kvm_msr_entry> entries;
  for (const uint32_t index : indices)
    entries.push_back({.index = index, .reserved = 0, .data = 0});
  return transfer_possible(vcpu_fd, kKvmGetMsrs, entries);
}

Result<void> set_possible_msrs(int vcpu_fd, std::span<const kvm_msr_entry> entries) {
  TRY(transfer_possible(vcpu_fd, kKvmSetMsrs, entries));
  return ok();
}

Result<void> set_msrs(int vcpu_fd, std::span<const kvm_msr_entry> entries) {
  std::vector<kvm_msr_entry> taken;
  while (!entries.empty()) {
    const size_t asked = std::min(entries.size(), kMaxMsrsAtOnce);
    const size_t count = TRY(transfer(vcpu_fd, kKvmSetMsrs, entries, taken));
    if (count < asked) {
      return fail(ErrorKind::kUnsupported, "KVM_SET_MSRS: msr {:#x} can not be {:#x} on this host",
                  entries[count].index, entries[count].data);
    }
    entries = entries.subspan(count);
  }
  return ok();
}

}  // namespace rhea::vmm
