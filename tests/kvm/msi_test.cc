// G29: a vector's signals against masking, on a real vCPU that answers each interrupt.
#include "devices/msi.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "vmm/kvm/kvm_ioctl.h"
#include "vmm/pc_layout.h"

using namespace rhea;
using namespace rhea::test;
using devices::MsiMessage;

namespace {

// What the guest's IDT has.
constexpr uint32_t kVector = 0x31;
constexpr uint32_t kLowVector = 0x21;
constexpr MsiMessage kMessage{.address = 0xfee0'0000, .data = kVector};
// The same interrupt by another route: the redirection hint means nothing with one CPU.
constexpr MsiMessage kOtherMessage{.address = 0xfee0'0008, .data = kVector};

/// A guest that counts interrupts and answers each with a doorbell, and one vector.
class MsiVm {
 public:
  MsiVm() {
    {
      const BqlGuard guard;
      MUST(port_.region().add_doorbell(
          {.offset = 0, .size_bytes = 4, .match = {}, .fd = answer_.fd()}));
      vector_ = MUST(vm_.accel().msi().add_vector());
    }
    vm_.word(0) = 0;
    vm_.reset_and_run();
    said_.wait();
  }
  ~MsiVm() {
    CHECK(vm_.failures().empty());
    const BqlGuard guard;
    vector_.reset();
  }
  void connect(const MsiMessage& message = kMessage) {
    const BqlGuard guard;
    MUST(vector_->connect(message));
  }
  void disconnect() {
    const BqlGuard guard;
    vector_->disconnect();
  }
  bool pending() {
    const BqlGuard guard;
    return vector_->pending();
  }
  void clear() {
    const BqlGuard guard;
    vector_->clear();
  }
  /// Any thread.
  void signal() { vector_->signal(); }
  /// Sleeps until the guest has answered `count` interrupts.
  void take_answers(uint64_t count) {
    while (count > 0) count -= std::min(count, answer_.take());
  }
  /// Disconnects, and counts the interrupts so far. Disconnected, all of them have reached the
  /// APIC; one of a lower priority comes behind the last of them.
  uint32_t interrupts() {
    disconnect();
    kvm_msi last{};
    last.address_lo = static_cast<uint32_t>(kMessage.address);
    last.data = kLowVector;
    MUST(KVM_IOCTL(vm_.accel().vm().fd(), KVM_SIGNAL_MSI, &last));
    said_.wait();
    return vm_.word(0);
  }
  devices::MsiVector& vector() { return *vector_; }
  BareVm& vm() { return vm_; }

 private:
  BareVm vm_{{kInterrupts}};
  EventFd answer_;
  Port port_{vm_, kDoorbellPort, {}};
  DonePort said_{vm_};
  std::unique_ptr<devices::MsiVector> vector_;
};

}  // namespace

TEST_CASE("KvmMsi: each signal of a connected vector is one interrupt", "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  vm.connect();
  const uint32_t rounds = sized(100U, 1000U);
  for (uint32_t i = 1; i <= rounds; ++i) {
    vm.signal();
    vm.take_answers(1);
    REQUIRE(vm.vm().word(0) == i);
  }
}

TEST_CASE("KvmMsi: signals that come while disconnected are pending, then one interrupt",
          "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  CHECK_FALSE(vm.pending());
  vm.signal();
  vm.signal();
  CHECK(vm.pending());
  CHECK(vm.pending());  // looking takes nothing
  CHECK(vm.vm().word(0) == 0);
  vm.connect();
  vm.take_answers(1);
  vm.disconnect();
  CHECK_FALSE(vm.pending());  // delivered, so not once more
  vm.connect();
  CHECK(vm.interrupts() == 1);
}

TEST_CASE("KvmMsi: what was cleared while disconnected is not delivered", "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  vm.signal();
  vm.clear();
  CHECK_FALSE(vm.pending());
  vm.connect();
  CHECK(vm.interrupts() == 0);
}

TEST_CASE("KvmMsi: a message that is not an interrupt leaves the vector disconnected",
          "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  vm.connect();
  for (const uint64_t address : {uint64_t{0}, uint64_t{0xfed0'0000}, uint64_t{0xfef0'0000},
                                 uint64_t{0x1'fee0'0000}, UINT64_MAX - 3}) {
    CAPTURE(address);
    {
      const BqlGuard guard;
      const auto result = vm.vector().connect({.address = address, .data = kVector});
      REQUIRE_FALSE(result);
      CHECK(result.error().kind() == ErrorKind::kInvalidArgument);
    }
    vm.signal();
    CHECK(vm.pending());
    vm.clear();
  }
  CHECK(vm.interrupts() == 0);
}

TEST_CASE("KvmMsi: a vector too many is refused by name, and a freed one can be had",
          "[kvm][msi]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  const BqlGuard guard;
  const unsigned most = vm.accel().kvm_irqs().max_messages();
  REQUIRE(most > 1000);
  // The numbers alone: a host may allow fewer descriptors than that.
  std::vector<unsigned> gsis;
  for (unsigned i = 0; i < most; ++i) gsis.push_back(MUST(vm.accel().kvm_irqs().reserve_gsi()));
  CHECK(std::ranges::adjacent_find(gsis) == gsis.end());
  CHECK(gsis.front() == vmm::pc::kIoApicPins);
  const auto refused = vm.accel().msi().add_vector();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind() == ErrorKind::kResource);
  CHECK(refused.error().message().find(std::to_string(most)) != std::string::npos);
  // The highest number is one that KVM takes.
  CHECK(vm.accel().kvm_irqs().route_gsi(gsis.back(), kMessage));
  vm.accel().kvm_irqs().release_gsi(gsis[7]);
  {
    const auto vector = vm.accel().msi().add_vector();
    REQUIRE(vector);
    CHECK((*vector)->connect(kMessage));
  }
  CHECK(vm.accel().msi().add_vector());
}

TEST_CASE("G29: a signal at any step of masking and unmasking is delivered once", "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  uint32_t expected = 0;
  for (const char* const step :
       {"KvmMsi::connect: routed, perhaps not yet attached", "KvmMsi::connect: attached",
        "KvmMsi::disconnect: still attached", "KvmMsi::disconnect: detached"}) {
    // Behind a signal that is pending, too.
    for (const bool pending_before : {false, true}) {
      CAPTURE(step, pending_before);
      if (pending_before) vm.signal();
      {
        int signals = 0;
        const SyncAction signal(step, [&] {
          if (signals++ == 0) vm.signal();
        });
        vm.connect();
        vm.disconnect();
        REQUIRE(signals == 1);
      }
      vm.connect();
      // One or two: two that meet before either was delivered are one.
      const uint32_t delivered = vm.interrupts() - expected;
      CHECK(delivered >= 1);
      CHECK(delivered <= (pending_before ? 2U : 1U));
      expected += delivered;
      CHECK_FALSE(vm.pending());
    }
  }
}

TEST_CASE("G29: none of a storm of signals is lost or doubled while main masks", "[kvm][msi]") {
  NEEDS_KVM();
  MsiVm vm;
  const uint32_t rounds = sized(2000U, 100'000U);
  std::atomic<bool> over = false;
  uint64_t masked = 0;
  std::thread masker([&] {
    while (!over) {
      vm.connect(masked % 3 == 0 ? kOtherMessage : kMessage);
      if (masked % 2 == 0) vm.connect(masked % 4 == 0 ? kMessage : kOtherMessage);
      vm.disconnect();
      ++masked;
    }
    vm.connect();
  });
  // The next signal waits for the answer to the one before, so every one must be an interrupt.
  for (uint32_t i = 0; i < rounds; ++i) {
    vm.signal();
    vm.take_answers(1);
  }
  over = true;
  masker.join();
  CHECK(vm.interrupts() == rounds);
  CHECK(masked > 0);
}
