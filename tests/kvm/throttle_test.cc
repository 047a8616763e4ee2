// Throttled vCPUs: they stand still for their share of the time, and nobody waits for that.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/kvm/bare_vm.h"
#include "tests/support/manual_clock.h"
#include "tests/support/size.h"

using namespace rhea;
using namespace rhea::test;
using vmm::VcpuThrottle;

namespace {

void throttle(BareVm& vm, unsigned percent) {
  const BqlGuard guard;
  vm.accel().throttle_vcpus(percent);
}

bool stands_still(BareVm& vm, size_t vcpu = 0) {
  const BqlGuard guard;
  return vm.vcpu(vcpu).stands_still();
}

void await_progress(BareVm& vm) {
  const uint32_t seen = vm.word(0);
  while (vm.word(0) == seen) std::this_thread::yield();
}

/// The vCPU has looked at the clock when this returns.
void have_it_look(BareVm& vm) {
  const BqlGuard guard;
  vm.vcpu().run_on([] {});
}

}  // namespace

TEST_CASE("throttle: a rest and a slice make up a turn of which the rest is the share", "[kvm]") {
  using std::chrono::microseconds;
  const auto [percent, rest] =
      GENERATE(table<unsigned, microseconds>({{0, microseconds(0)},
                                              {1, microseconds(101)},
                                              {20, microseconds(2'500)},
                                              {50, microseconds(10'000)},
                                              {90, microseconds(90'000)},
                                              {99, microseconds(990'000)}}));
  CHECK(std::chrono::duration_cast<microseconds>(VcpuThrottle::rest_of_turn(percent)) == rest);
}

// The clock is the test's, so the share is exact: nothing depends on how fast this host is.
TEST_CASE("throttle: a spinning guest runs in its slices and stands still in between", "[kvm]") {
  NEEDS_KVM();
  const unsigned percent = GENERATE(1U, 50U, 99U);
  constexpr Nanoseconds kTick{1};
  const Nanoseconds rest = VcpuThrottle::rest_of_turn(percent);
  ManualClock clock;
  BareVm vm({kSpin}, {.clock = &clock});
  const auto pass_time = [&](Nanoseconds by) {
    clock.advance(by);
    have_it_look(vm);
  };
  vm.reset_and_run();
  await_progress(vm);
  throttle(vm, percent);
  have_it_look(vm);
  const int turns = sized(2, 500);
  for (int turn = 0; turn < turns; ++turn) {
    const uint32_t before = vm.word(0);
    REQUIRE(stands_still(vm));
    pass_time(rest - kTick);
    REQUIRE(stands_still(vm));
    REQUIRE(vm.word(0) == before);
    pass_time(kTick);
    REQUIRE_FALSE(stands_still(vm));
    await_progress(vm);
    pass_time(VcpuThrottle::kSlice - kTick);
    REQUIRE_FALSE(stands_still(vm));
    pass_time(kTick);
  }
  throttle(vm, 0);
  have_it_look(vm);
  CHECK_FALSE(stands_still(vm));
  await_progress(vm);
  CHECK(vm.failures().empty());
}

// On a clock that stands still no rest ever ends by itself.
TEST_CASE("throttle: a pause, work, full speed and the end do not wait for a rest", "[kvm]") {
  NEEDS_KVM();
  ManualClock clock;
  BareVm vm({kSpin, kSpin}, {.clock = &clock});
  vm.reset_and_run();
  await_progress(vm);
  const int rounds = sized(6, 1'000);
  for (int i = 0; i < rounds; ++i) {
    throttle(vm, 99);
    if (i % 3 == 0) have_it_look(vm);  // else it may be on its way
    vm.pause();
    const uint32_t paused = vm.word(0);
    have_it_look(vm);
    vm.resume();
    have_it_look(vm);
    REQUIRE(stands_still(vm));  // its rest is not over
    REQUIRE(vm.word(0) == paused);
    throttle(vm, 0);
    await_progress(vm);
  }
  throttle(vm, 99);
  have_it_look(vm);
  REQUIRE(stands_still(vm));
  CHECK(vm.failures().empty());
}

TEST_CASE("throttle: a rest ends when a smaller share says so", "[kvm]") {
  NEEDS_KVM();
  ManualClock clock;
  BareVm vm({kSpin}, {.clock = &clock});
  vm.reset_and_run();
  throttle(vm, 90);
  have_it_look(vm);
  clock.advance(VcpuThrottle::rest_of_turn(50));
  have_it_look(vm);
  REQUIRE(stands_still(vm));
  throttle(vm, 50);
  await_progress(vm);
  CHECK(vm.failures().empty());
}

TEST_CASE("throttle: on the host's clock slices and rests end by themselves", "[kvm]") {
  NEEDS_KVM();
  BareVm vm({kSpin, kSpin});
  vm.reset_and_run();
  throttle(vm, 50);
  const int turns = sized(3, 100);
  for (int turn = 0; turn < turns; ++turn) {
    for (size_t vcpu = 0; vcpu < 2; ++vcpu) {
      while (!stands_still(vm, vcpu)) std::this_thread::yield();
      while (stands_still(vm, vcpu)) std::this_thread::yield();
    }
    await_progress(vm);
  }
  CHECK(vm.failures().empty());
}
