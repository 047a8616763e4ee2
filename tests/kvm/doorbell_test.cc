// Eventfds between the guest and us: the kernel counts doorbells and raises interrupts by itself.
#include <atomic>
#include <semaphore>

#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"
#include "vmm/kvm/kvm_ioctl.h"

using namespace rhea;
using namespace rhea::test;
using memory::MemoryRegion;

namespace {

MemoryRegion::Doorbell doorbell_of(const EventFd& eventfd) {
  return {.offset = 0, .size_bytes = 4, .match = {}, .fd = eventfd.fd()};
}

void add_doorbell(Port& port, const EventFd& eventfd) {
  const BqlGuard guard;
  MUST(port.region().add_doorbell(doorbell_of(eventfd)));
}

void remove_doorbell(Port& port, const EventFd& eventfd) {
  const BqlGuard guard;
  port.region().remove_doorbell(doorbell_of(eventfd));
}

/// How many OUTs of code_doorbells the vCPU has done: the counter in ECX went down from 2^32, and
/// the OUT at which the vCPU may have stopped is not counted down yet.
uint32_t rings_done(BareVm& vm) {
  constexpr uint64_t kBehindOut = 12;  // movl 7 bytes, movw 4, outl 1
  kvm_regs regs{};
  MUST(KVM_IOCTL(vm.vcpu().vcpu().fd(), KVM_GET_REGS, &regs));
  const bool not_counted = regs.rip == BareVm::code_base(0) + kBehindOut;
  return 0U - static_cast<uint32_t>(regs.rcx) + (not_counted ? 1 : 0);
}

}  // namespace

TEST_CASE("ioeventfd: doorbells are counted without leaving the kernel", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kRings = 10'000;
  constexpr uint64_t kHandful = 10;
  BareVm vm({kDoorbells});
  EventFd eventfd;
  std::atomic<int> handled = 0;
  Port port(vm, kDoorbellPort, {.write = [&] { ++handled; }});
  DonePort done(vm);
  add_doorbell(port, eventfd);
  vm.word(0) = kRings;
  const uint64_t exits_before = vm.vcpu().exits();
  vm.reset_and_run();
  done.wait();
  CHECK(eventfd.take_now() == kRings);
  CHECK(handled == 0);
  CHECK(vm.vcpu().exits() - exits_before <= kHandful);
  CHECK(vm.failures().empty());
}

TEST_CASE("ioeventfd: without a doorbell every ring is an exit", "[kvm]") {
  NEEDS_KVM();
  constexpr uint32_t kRings = 1'000;
  BareVm vm({kDoorbells});
  std::atomic<uint32_t> handled = 0;
  Port port(vm, kDoorbellPort, {.write = [&] { ++handled; }});
  DonePort done(vm);
  vm.word(0) = kRings;
  vm.reset_and_run();
  done.wait();
  CHECK(handled == kRings);
  CHECK(vm.vcpu().exits() >= kRings);
}

TEST_CASE("ioeventfd: no ring is lost when doorbells come and go under a running guest", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kDoorbells});
  EventFd eventfd;
  std::atomic<uint64_t> handled = 0;
  std::binary_semaphore first(0);
  std::atomic<bool> tell = false;
  Port port(vm, kDoorbellPort, {.write = [&] {
              ++handled;
              if (tell.exchange(false)) first.release();
            }});
  vm.word(0) = 0;  // 2^32 rings: for ever
  tell = true;
  vm.reset_and_run();
  uint64_t signalled = 0;
  const int rounds = sized(5, 100);
  for (int i = 0; i < rounds; ++i) {
    first.acquire();  // the exit path works
    add_doorbell(port, eventfd);
    signalled += eventfd.take();  // the eventfd works
    remove_doorbell(port, eventfd);
    tell = true;
  }
  first.acquire();
  vm.pause();
  signalled += eventfd.take_now();
  CHECK(handled + signalled == rings_done(vm));
  CHECK(vm.failures().empty());
}

TEST_CASE("irqfd: each signal is one interrupt, answered by a doorbell", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kInterrupts});
  EventFd irq, answer;
  Port port(vm, kDoorbellPort, {});
  DonePort ready(vm);
  add_doorbell(port, answer);
  MUST(vm.accel().kvm_irqs().attach_eventfd(kInterruptGsi, irq.fd()));
  vm.word(0) = 0;
  vm.reset_and_run();
  ready.wait();
  const uint32_t rounds = sized(100U, 1000U);
  for (uint32_t i = 1; i <= rounds; ++i) {
    irq.signal();
    REQUIRE(answer.take() == 1);
    REQUIRE(vm.word(0) == i);
  }
  // Detached, the eventfd is just a counter again, and the line is ours.
  MUST(vm.accel().kvm_irqs().detach_eventfd(kInterruptGsi, irq.fd()));
  irq.signal();
  vm.accel().irqs().set_irq(kInterruptGsi, true);
  CHECK(answer.take() == 1);
  CHECK(irq.take_now() == 1);
  vm.accel().irqs().set_irq(kInterruptGsi, false);
  CHECK(vm.word(0) == rounds + 1);
  CHECK(vm.failures().empty());
}

TEST_CASE("irqfd: an eventfd is attached once, and detached only where it is", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  EventFd irq;
  auto& irqs = vm.accel().kvm_irqs();
  CHECK(irqs.attach_eventfd(kInterruptGsi, irq.fd()));
  const auto again = irqs.attach_eventfd(kInterruptGsi, irq.fd());
  REQUIRE_FALSE(again);
  CHECK(again.error().kind() == ErrorKind::kBusy);
  CHECK(irqs.detach_eventfd(kInterruptGsi, irq.fd()));
  CHECK(irqs.attach_eventfd(kInterruptGsi, irq.fd()));
  CHECK_FALSE(irqs.attach_eventfd(kInterruptGsi, -1));
}
