#include "vmm/kvm/kvm_vm.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

constexpr int kApiVersion = 12;  // fixed since Linux 2.6.22

struct Needed {
  int number;
  const char* name;
};
constexpr std::array kNeeded{
    Needed{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    Needed{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    Needed{KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    Needed{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    Needed{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    Needed{KVM_CAP_PIT2, "KVM_CAP_PIT2"},
    Needed{KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2"},
    Needed{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    Needed{KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    Needed{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    Needed{KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
};

Result<Fd> open_device() {
  const int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, "could not access KVM kernel module /dev/kvm");
  return Fd(fd);
}

Result<void> check_device(int device) {
  const int version = TRY(KVM_IOCTL(device, KVM_GET_API_VERSION, 0));
  if (version != kApiVersion) {
    return fail(ErrorKind::kUnsupported, "KVM API version {} is not {}", version, kApiVersion);
  }
  for (const Needed& needed : kNeeded) {
    if (TRY(KVM_IOCTL(device, KVM_CHECK_EXTENSION, needed.number)) == 0) {
      return fail(ErrorKind::kUnsupported, "the host's KVM lacks {}", needed.name);
    }
  }
  return ok();
}

}  // namespace

Result<std::unique_ptr<KvmVm>> KvmVm::create() {
  Fd device = TRY(open_device());
  TRY(check_device(device.get()));
  const int run_size = TRY(KVM_IOCTL(device.get(), KVM_GET_VCPU_MMAP_SIZE, 0));
  Fd machine(TRY(KVM_IOCTL(device.get(), KVM_CREATE_VM, 0)));
  std::unique_ptr<KvmVm> vm(
      new KvmVm(std::move(device), std::move(machine), static_cast<size_t>(run_size)));
  uint64_t identity_map = pc::kKvmPages.value;
  TRY(KVM_IOCTL(vm->fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map));
  TRY(KVM_IOCTL(vm->fd(), KVM_SET_TSS_ADDR, pc::kKvmPages.value + 4096));
  return vm;
}

Result<void> KvmVm::create_irqchip() {
  TRY(KVM_IOCTL(fd(), KVM_CREATE_IRQCHIP, 0));
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;  // port 0x61 belongs to the PIT
  TRY(KVM_IOCTL(fd(), KVM_CREATE_PIT2, &pit));
  return ok();
}

int KvmVm::capability(int number) const noexcept {
  return std::max(0, ::ioctl(fd(), KVM_CHECK_EXTENSION, number));
}

unsigned KvmVm::max_vcpus() const noexcept {
  const int most = capability(KVM_CAP_MAX_VCPUS);
  return most > 0 ? static_cast<unsigned>(most) : 4;  // 4 is the documented answer of old kernels
}

Result<uint64_t> KvmVm::clock() const {
  kvm_clock_data data{};
  TRY(KVM_IOCTL(fd(), KVM_GET_CLOCK, &data));
  return data.clock;
}

Result<void> KvmVm::set_clock(uint64_t nanoseconds) {
  kvm_clock_data data{};
  data.clock = nanoseconds;
  TRY(KVM_IOCTL(fd(), KVM_SET_CLOCK, &data));
  return ok();
}

Result<void> KvmVm::save_power_on_irqchip() {
  for (uint32_t chip = 0; chip < std::size(power_on_.chips); ++chip) {
    power_on_.chips[chip].chip_id = chip;
    TRY(KVM_IOCTL(fd(), KVM_GET_IRQCHIP, &power_on_.chips[chip]));
  }
  TRY(KVM_IOCTL(fd(), KVM_GET_PIT2, &power_on_.pit));
  return ok();
}

Result<void> KvmVm::reset_irqchip() {
  for (kvm_irqchip& chip : power_on_.chips) TRY(KVM_IOCTL(fd(), KVM_SET_IRQCHIP, &chip));
  TRY(KVM_IOCTL(fd(), KVM_SET_PIT2, &power_on_.pit));
  return ok();
}

bool kvm_present() noexcept {
  const Fd device(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  return static_cast<bool>(device);
}

}  // namespace rhea::vmm
