// A vCPU as KVM tells it, past the product: what state tests put in and compare with.
#pragma once

#include <cpuid.h>
#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "tests/kvm/bare_vm.h"
#include "util/check.h"
#include "vmm/kvm/kvm_array.h"
#include "vmm/kvm/kvm_ioctl.h"

namespace rhea::test {

/// KVM's structure of this type, as a GET request fills it in.
template <class T>
T kvm_get(int fd, unsigned long request) {
  T state;
  std::memset(&state, 0, sizeof state);
  MUST(vmm::kvm_ioctl(fd, request, &state, "a KVM_GET request"));
  return state;
}

// Of the LAPIC's page. [SDM vol. 3, 10.4.1]
inline constexpr size_t kSpurious = 0xf0, kIrr = 0x200, kIcrHigh = 0x310, kTimerEntry = 0x320;

inline uint32_t lapic_register(const kvm_lapic_state& lapic, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, lapic.regs + offset, sizeof value);
  return value;
}
inline void set_lapic_register(kvm_lapic_state& lapic, size_t offset, uint32_t value) {
  std::memcpy(lapic.regs + offset, &value, sizeof value);
}

/// Goes before its machine, whose vCPUs stand still.
class RawVcpu {
 public:
  explicit RawVcpu(BareVm& vm, size_t index = 0)
      : device_(vm.accel().vm().device_fd()),
        vm_(vm.accel().vm().fd()),
        fd_(vm.vcpu(index).vcpu().fd()) {}

  /// Of the machine, for what belongs to no vCPU.
  int vm_fd() const { return vm_; }

  template <class T>
  T get(unsigned long request) const {
    return kvm_get<T>(fd_, request);
  }
  template <class T>
  void set(unsigned long request, T state) const {
    MUST(vmm::kvm_ioctl(fd_, request, &state, "a KVM_SET request"));
  }

  kvm_irqchip chip(uint32_t number) const {
    kvm_irqchip state{};
    state.chip_id = number;
    MUST(KVM_IOCTL(vm_, KVM_GET_IRQCHIP, &state));
    return state;
  }
  void set_chip(kvm_irqchip state) const { MUST(KVM_IOCTL(vm_, KVM_SET_IRQCHIP, &state)); }

  /// Nothing if this KVM does not have the register.
  std::optional<uint64_t> msr(uint32_t index) const {
    vmm::KvmMsrArray one(1);
    one.elements()[0].index = index;
    if (MUST(vmm::kvm_ioctl(fd_, vmm::kKvmGetMsrs, one.get(), "KVM_GET_MSRS")) == 0) return {};
    return one.elements()[0].data;
  }
  /// Whether KVM takes it.
  bool set_msr(uint32_t index, uint64_t value) const {
    vmm::KvmMsrArray one(1);
    one.elements()[0].index = index;
    one.elements()[0].data = value;
    return MUST(vmm::kvm_ioctl(fd_, vmm::kKvmSetMsrs, one.get(), "KVM_SET_MSRS")) == 1;
  }

  /// In the standard form, and longer than any host's.
  std::vector<uint8_t> xsave() const {
    std::vector<uint8_t> area(kMostXsaveBytes);
    const bool sized = ::ioctl(vm_, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) > 0;
    MUST(vmm::kvm_ioctl(fd_, sized ? kGetXsave2 : kGetXsave, area.data(), "KVM_GET_XSAVE"));
    return area;
  }
  void set_xsave(std::vector<uint8_t> area) const {
    area.resize(kMostXsaveBytes);
    MUST(vmm::kvm_ioctl(fd_, kSetXsave, area.data(), "KVM_SET_XSAVE"));
  }
  /// The components that a guest may have; x87 and SSE if KVM does not say.
  uint64_t xfeatures() const {
    uint64_t supported = 0;
    kvm_device_attr attribute{};
    attribute.attr = KVM_X86_XCOMP_GUEST_SUPP;
    attribute.addr = reinterpret_cast<uintptr_t>(&supported);
    return ::ioctl(device_, KVM_GET_DEVICE_ATTR, &attribute) == 0 ? supported | 3 : 3;
  }

 private:
  // As the product has them, for its reason: kvm_xsave's size is not the same in C++.
  static constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
  static constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
  static constexpr unsigned long kGetXsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, 4096);
  static constexpr size_t kMostXsaveBytes = 65536;

  int device_, vm_, fd_;
};

/// A component of an XSAVE area. [SDM vol. 1, 13.1]
struct XsaveComponent {
  const char* name;
  unsigned number;
  size_t used_bytes;  ///< what of it is not reserved; 0: all
  size_t offset = 0, bytes = 0;
};

/// Those with a place of their own in the area that this host has and `xfeatures` names. Not AMX's:
/// its bytes must be a palette that exists.
inline std::vector<XsaveComponent> xsave_components(uint64_t xfeatures) {
  std::vector<XsaveComponent> found;
  for (XsaveComponent component :
       {XsaveComponent{"AVX (upper halves)", 2, 0}, XsaveComponent{"AVX-512 masks", 5, 0},
        XsaveComponent{"AVX-512 upper halves", 6, 0},
        XsaveComponent{"AVX-512 registers 16 to 31", 7, 0}, XsaveComponent{"PKRU", 9, 4}}) {
    unsigned bytes = 0, offset = 0, ecx = 0, edx = 0;
    if ((xfeatures >> component.number & 1) == 0) continue;
    if (__get_cpuid_count(0xd, component.number, &bytes, &offset, &ecx, &edx) == 0) continue;
    component.offset = offset;
    component.bytes = component.used_bytes != 0 ? component.used_bytes : bytes;
    found.push_back(component);
  }
  return found;
}

/// An area in which x87, SSE and these components are in use, no byte of a register as at power-on.
inline std::vector<uint8_t> filled_xsave(std::vector<uint8_t> area,
                                         std::span<const XsaveComponent> components) {
  uint64_t in_use = 3;
  const auto fill = [&area](size_t offset, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) area[offset + i] = static_cast<uint8_t>(i * 5 % 251 + 1);
  };
  area[0] = 0x7f, area[1] = 0x06;    // FCW
  area[2] = 0x21, area[3] = 0x38;    // FSW: TOP is 7
  area[4] = 0xff;                    // FTW: all in use
  area[24] = 0x80, area[25] = 0x3f;  // MXCSR
  for (size_t i = 0; i < 8; ++i) fill(32 + 16 * i, 10);
  fill(160, 256);
  for (const XsaveComponent& component : components) {
    fill(component.offset, component.bytes);
    in_use |= uint64_t{1} << component.number;
  }
  std::memcpy(area.data() + 512, &in_use, sizeof in_use);
  return area;
}

}  // namespace rhea::test
