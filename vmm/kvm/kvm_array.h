// KvmArray: the kernel's "count, then that many elements" structures.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace rhea::vmm {

/// In C++ some releases of <linux/kvm.h> lay these out wrongly: the flexible array is declared
/// beside an empty structure, which takes a byte in C++ and none in C, so the elements' offset, the
/// size, and with it the ioctl's number are not the kernel's. So the layout is spelled out here:
/// `HeaderBytes` (whose first word is the count), then the elements.
template <class Element, size_t HeaderBytes = 8>
class KvmArray {
 public:
  explicit KvmArray(size_t count) : storage_((HeaderBytes + count * sizeof(Element) + 7) / 8) {
    set_count(static_cast<uint32_t>(count));
  }

  uint32_t count() const noexcept {
    uint32_t count = 0;
    std::memcpy(&count, storage_.data(), sizeof count);
    return count;
  }
  void set_count(uint32_t count) noexcept { std::memcpy(storage_.data(), &count, sizeof count); }

  std::span<Element> elements() noexcept {
    auto* first = reinterpret_cast<std::byte*>(storage_.data()) + HeaderBytes;
    return {reinterpret_cast<Element*>(first), count()};
  }
  /// What the ioctl takes.
  void* get() noexcept { return storage_.data(); }

 private:
  std::vector<uint64_t> storage_;
};

using KvmCpuidArray = KvmArray<kvm_cpuid_entry2>;
using KvmMsrArray = KvmArray<kvm_msr_entry>;
using KvmRoutingArray = KvmArray<kvm_irq_routing_entry>;
using KvmMsrList = KvmArray<uint32_t, 4>;

// The requests whose numbers hold the size of such a structure's header.
inline constexpr unsigned long kKvmGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long kKvmGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kKvmSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8);
inline constexpr unsigned long kKvmGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kKvmSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kKvmSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);

}  // namespace rhea::vmm
