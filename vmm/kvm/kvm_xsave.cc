#include "vmm/kvm/kvm_xsave.h"

#include <linux/kvm.h>

#include <algorithm>

#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::vmm {
namespace {

// Spelled out: <linux/kvm.h> declares a flexible array in kvm_xsave whose size in C++ may not be
// that in C, and the size is part of the numbers.
constexpr unsigned long kKvmGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
constexpr unsigned long kKvmSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
constexpr unsigned long kKvmGetXsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, 4096);

}  // namespace

size_t xsave_bytes(const KvmVm& vm) {
  return std::max(kLeastXsaveBytes, static_cast<size_t>(vm.capability(KVM_CAP_XSAVE2)));
}

Result<std::vector<uint8_t>> read_xsave(const KvmVm& vm, int vcpu_fd) {
  std::vector<uint8_t> area(xsave_bytes(vm));
  const bool sized = vm.capability(KVM_CAP_XSAVE2) > 0;
  TRY(kvm_ioctl(vcpu_fd, sized ? kKvmGetXsave2 : kKvmGetXsave, area.data(),
                sized ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE"));
  return area;
}

Result<void> write_xsave(const KvmVm& vm, int vcpu_fd, std::span<const uint8_t> area) {
  std::vector<uint8_t> whole(area.begin(), area.end());
  whole.resize(xsave_bytes(vm));  // KVM reads as much
  TRY(kvm_ioctl(vcpu_fd, kKvmSetXsave, whole.data(), "KVM_SET_XSAVE"));
  return ok();
}

}  // namespace rhea::vmm
