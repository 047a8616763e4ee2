#include "vmm/vm_clock.h"

#include <catch2/catch.hpp>
#include <vector>

#include "tests/support/manual_clock.h"
#include "util/timer.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace std::chrono_literals;

TEST_CASE("VmClock: follows the host while it runs and stands still while it does not", "[clock]") {
  BqlGuard guard;
  test::ManualClock host(100s);
  VmClock clock(host, VmClock::Mode::kFollowsHost);
  host.advance(5s);
  CHECK(clock.now() == 0s);
  clock.start();
  host.advance(3s);
  CHECK(clock.now() == 3s);
  clock.stop();
  clock.stop();
  host.advance(10s);
  CHECK(clock.now() == 3s);
  clock.start();
  clock.start();
  CHECK(clock.now() == 3s);
  host.advance(1ns);
  CHECK(clock.now() == 3s + 1ns);
}

TEST_CASE("VmClock: a running clock brings a deadline nearer, a standing one does not", "[clock]") {
  BqlGuard guard;
  test::ManualClock host(100s);
  VmClock clock(host, VmClock::Mode::kFollowsHost);
  CHECK(clock.host_time_until(1s) == Nanoseconds::max());
  CHECK(clock.host_time_until(0s) == 0s);
  clock.start();
  host.advance(1s);
  CHECK(clock.host_time_until(3s) == 2s);
  CHECK(clock.host_time_until(1s) == 0s);
  CHECK(clock.host_time_until(Nanoseconds::max()) == Nanoseconds::max());
}

TEST_CASE("VmClock: a stepped clock moves when told to and never with the host", "[clock]") {
  BqlGuard guard;
  test::ManualClock host(100s);
  VmClock clock(host, VmClock::Mode::kStepped);
  TimerList timers(clock, [] {});
  clock.start();
  host.advance(5s);
  CHECK(clock.now() == 0s);
  CHECK(clock.host_time_until(1s) == Nanoseconds::max());
  clock.step_to(7s, timers);
  CHECK(clock.now() == 7s);
  clock.step_to(2s, timers);
  CHECK(clock.now() == 7s);
}

TEST_CASE("VmClock: a step stops at each deadline on its way", "[clock]") {
  BqlGuard guard;
  test::ManualClock host;
  VmClock clock(host, VmClock::Mode::kStepped);
  TimerList timers(clock, [] {});
  std::vector<Nanoseconds> seen;
  Timer once(timers, [&] { seen.push_back(clock.now()); });
  Timer periodic(timers, [&] {
    seen.push_back(clock.now());
    if (seen.size() < 10) periodic.arm_after(3s);
  });
  once.arm_at(4s);
  periodic.arm_at(3s);
  clock.step_to(10s, timers);
  CHECK(seen == std::vector<Nanoseconds>{3s, 4s, 6s, 9s});
  CHECK(clock.now() == 10s);
}
