// Kicks: a vCPU that never leaves by itself stands still when it is told to, wherever it is.
#include <array>
#include <atomic>
#include <cstring>
#include <semaphore>
#include <thread>

#include "tests/kvm/bare_vm.h"
#include "tests/support/size.h"
#include "util/sync_point.h"
#include "util/thread.h"
#include "vmm/kvm/kvm_ioctl.h"

using namespace rhea;
using namespace rhea::test;

namespace {

/// A named point of the code at which the next thread that passes is held.
struct HoldPoint {
  const char* name;
  std::atomic<bool> armed{false};
  std::binary_semaphore arrived{0};
  std::binary_semaphore go{0};

  void pass() {
    if (!armed.exchange(false)) return;
    arrived.release();
    go.acquire();
  }
  /// Returns when a thread is there.
  void wait_arrival() { arrived.acquire(); }
};

// Static: a thread may be on its way through the handler when the test has ended.
HoldPoint before_check{.name = "vcpu.run.before_attention_check"};
HoldPoint before_enter{.name = "vcpu.run.before_enter"};
HoldPoint before_signal{.name = "vcpu.kick.before_signal"};

/// The points work while this lives.
class Replay {
 public:
  Replay() { sync_point_handler.store(pass, std::memory_order_release); }
  ~Replay() { sync_point_handler.store(nullptr, std::memory_order_release); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

 private:
  static void pass(const char* name) {
    for (HoldPoint* point : {&before_check, &before_enter, &before_signal}) {
      if (std::strcmp(point->name, name) == 0) point->pass();
    }
  }
};

/// Lets the vCPU begin and go as far as `point`, which holds it.
void begin_up_to(HoldPoint& point, BareVm& vm) {
  vm.reset();
  point.armed = true;
  vm.resume();
  point.wait_arrival();
}

void ask_to_stop(BareVm& vm) {
  const BqlGuard guard;
  vm.vcpu().request_stop();
}

/// Looks until the vCPU stands still. It is not told again: pause() would send another signal and
/// hide that the first was lost. The machine's watchdog ends a wait for nothing.
void await_stand_still(BareVm& vm) {
  while (true) {
    {
      const BqlGuard guard;
      if (vm.vcpu().stands_still()) return;
    }
    std::this_thread::yield();
  }
}

void await_progress(BareVm& vm) {
  const uint32_t seen = vm.word(0);
  while (vm.word(0) == seen) std::this_thread::yield();
}

}  // namespace

TEST_CASE("kick: a spinning guest stands still after each pause and goes on after it", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  vm.reset_and_run();
  const int rounds = sized(200, 2'000);
  for (int i = 0; i < rounds; ++i) {
    await_progress(vm);
    vm.pause();
    const uint32_t counter = vm.word(0);
    kvm_regs regs{};
    REQUIRE(KVM_IOCTL(vm.vcpu().vcpu().fd(), KVM_GET_REGS, &regs));  // waits if it still ran
    REQUIRE(vm.word(0) == counter);
    vm.resume();
  }
  CHECK(vm.failures().empty());
}

TEST_CASE("kick: kicks without a request change nothing", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  vm.reset_and_run();
  for (int i = 0; i < 100; ++i) {
    vm.vcpu().kick();
    await_progress(vm);
  }
  CHECK(vm.failures().empty());
}

// Each replay holds the vCPU (and the kicker) at one spot of the hand-over, and lets go.

TEST_CASE("kick: one that comes just before the vCPU looks is seen", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  Replay replay;
  begin_up_to(before_check, vm);
  ask_to_stop(vm);
  before_check.go.release();
  await_stand_still(vm);
  CHECK(vm.word(0) == 0);
}

TEST_CASE("kick: one that comes between the vCPU's look and KVM_RUN is not lost", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  Replay replay;
  begin_up_to(before_enter, vm);
  ask_to_stop(vm);  // the signal has come and gone when the vCPU goes on
  before_enter.go.release();
  await_stand_still(vm);
  CHECK(vm.word(0) == 0);
}

TEST_CASE("kick: a vCPU that leaves before the signal is sent stands still all the same", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  Replay replay;
  begin_up_to(before_enter, vm);
  before_signal.armed = true;
  Thread kicker = MUST(Thread::start("kicker", [&] { ask_to_stop(vm); }));
  before_signal.wait_arrival();
  const uint64_t exits = vm.vcpu().exits();
  before_enter.go.release();
  while (vm.vcpu().exits() == exits) std::this_thread::yield();  // immediate_exit did it
  before_signal.go.release();
  await_stand_still(vm);
  kicker.join();
  CHECK(vm.word(0) == 0);
}

TEST_CASE("kick: a request that is withdrawn before the vCPU saw it lets it run", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin});
  Replay replay;
  begin_up_to(before_enter, vm);
  ask_to_stop(vm);
  vm.resume();
  before_enter.go.release();
  await_progress(vm);
  CHECK(vm.failures().empty());
}
