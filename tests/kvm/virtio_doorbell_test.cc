// A virtio queue's doorbell on KVM: ringing it costs the vCPU no exit to user space.
#include <unistd.h>

#include <array>
#include <memory>

#include "devices/pci_bus.h"
#include "devices/virtio/virtio_pci.h"
#include "tests/kvm/bare_vm.h"
#include "tests/support/stateless_virtio.h"
#include "util/main_loop.h"

using namespace rhea;
using namespace rhea::test;

namespace {

constexpr uint32_t kRings = 10'000;
constexpr uint64_t kBarAt = 0xc000'0000;
constexpr uint64_t kNotifyPage = 0x3000;
constexpr unsigned kSlot = 3;

/// Two queues that nobody starts: their doorbells just count.
class Idle final : public StatelessVirtio {
 public:
  explicit Idle(Host host) : StatelessVirtio("idle", host) {
    for (int i = 0; i < 2; ++i) add_queue(host.loop.block(), 64);
  }
  uint16_t virtio_id() const noexcept override { return 42; }
  uint32_t pci_class() const noexcept override { return 0xff0000; }
  size_t config_size() const noexcept override { return 0; }
  void read_config(std::span<std::byte>) override REQUIRES(bql) {}
  void write_config(size_t, std::span<const std::byte>) override REQUIRES(bql) {}

 private:
  uint64_t device_features() const override REQUIRES(bql) { return 0; }
  Served serve(devices::VirtioQueue&) override { return Served::kAll; }
};

/// The device on a bus in front of a guest, its registers at kBarAt.
class VirtioVm {
 public:
  VirtioVm() {
    const BqlGuard guard;
    loop_ = MUST(MainLoop::create());
    vm_.memory_root().add(window_, 0, -1);
    bus_ =
        std::make_unique<devices::PciBus>("pci.0", io_, window_, std::array<devices::IrqLine, 4>());
    auto idle = std::make_unique<Idle>(
        devices::VirtioDevice::Host{*loop_, memory::GuestMemory(vm_.memory())});
    idle_ = idle.get();
    pci_ = std::make_shared<devices::VirtioPci>("idle", std::move(idle), vm_.accel().msi(), *loop_);
    MUST(pci_->realize());
    MUST(bus_->add(pci_, kSlot));
    bus_->config_write(kSlot, 0, 0x20, kBarAt, 4);
    decode(true);
  }
  ~VirtioVm() {
    {
      const BqlGuard guard;
      bus_->remove(*pci_);
      pci_->unrealize();
      bus_.reset();
      vm_.memory_root().remove(window_);
      pci_.reset();
      loop_.reset();
    }
    rcu_drain_callbacks();
  }
  void decode(bool on) REQUIRES(bql) {
    constexpr uint32_t kMemory = 2;
    bus_->config_write(kSlot, 0, 0x04, on ? kMemory : 0, 2);
  }
  BareVm& vm() { return vm_; }
  /// What the eventfd behind a doorbell has counted.
  uint64_t take(unsigned queue) {
    uint64_t count = 0;
    return ::read(idle_->kick_fd(queue), &count, sizeof count) == sizeof count ? count : 0;
  }

 private:
  BareVm vm_{{kMmioDoorbells}};
  memory::MemoryRegion window_{"pci-memory", uint64_t{1} << 46}, io_{"pci-io", 0x1'0000};
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<devices::PciBus> bus_;
  Idle* idle_ = nullptr;
  std::shared_ptr<devices::VirtioPci> pci_;
};

}  // namespace

TEST_CASE("VirtioPci: 10^4 doorbells leave the vCPU's exits to user space as they were",
          "[kvm][virtio]") {
  NEEDS_KVM();
  constexpr uint64_t kHandful = 10;
  VirtioVm virtio;
  BareVm& vm = virtio.vm();
  DonePort done(vm);
  for (const unsigned queue : {0U, 1U}) {
    vm.word(0) = kRings;
    vm.word(1) = static_cast<uint32_t>(kBarAt + kNotifyPage) + 4 * queue;
    const uint64_t before = vm.vcpu().exits();
    vm.reset_and_run();
    done.wait();
    CHECK(virtio.take(queue) == kRings);
    CHECK(virtio.take(1 - queue) == 0);
    CHECK(vm.vcpu().exits() - before <= kHandful);
    vm.pause();
  }
  CHECK(vm.failures().empty());
}

TEST_CASE("VirtioPci: a doorbell is gone with the decoding of its BAR", "[kvm][virtio]") {
  NEEDS_KVM();
  VirtioVm virtio;
  BareVm& vm = virtio.vm();
  DonePort done(vm);
  {
    const BqlGuard guard;
    virtio.decode(false);
  }
  vm.word(0) = 100;
  vm.word(1) = static_cast<uint32_t>(kBarAt + kNotifyPage);
  const uint64_t before = vm.vcpu().exits();
  vm.reset_and_run();
  done.wait();
  CHECK(virtio.take(0) == 0);
  CHECK(vm.vcpu().exits() - before >= 100);  // each went to user space, and nowhere
  CHECK(vm.failures().empty());
}
