#include "vmm/vm_clock.h"

#include <catch2/catch.hpp>
#include <span>
#include <vector>

#include "tests/support/manual_clock.h"
#include "util/main_loop.h"
#include "util/rcu.h"
#include "util/timer.h"
#include "vmm/qtest_accel.h"

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

TEST_CASE("VmClock: goes on from a saved time, once it is started", "[clock]") {
  BqlGuard guard;
  test::ManualClock host(100s);
  VmClock source(host, VmClock::Mode::kFollowsHost);
  source.start();
  host.advance(7s);
  source.stop();
  const VmClockState state = source.save();
  VmClock clock(host, VmClock::Mode::kFollowsHost);
  host.advance(50s);
  REQUIRE(clock.check(state));
  clock.load(state);
  CHECK(clock.now() == 7s);
  clock.start();
  host.advance(2s);
  CHECK(clock.now() == 9s);
}

TEST_CASE("VmClock: a time that is past, negative or too large is refused", "[clock]") {
  BqlGuard guard;
  test::ManualClock host(100s);
  VmClock clock(host, VmClock::Mode::kFollowsHost);
  clock.start();
  host.advance(5s);
  clock.stop();
  const auto refusal = [&](int64_t nanoseconds) {
    const auto checked = clock.check({.nanoseconds = nanoseconds});
    return checked ? "taken" : checked.error().message();
  };
  CHECK(refusal(5'000'000'000) == "taken");
  CHECK(refusal(4'999'999'999) == "the clock would go back from 5000000000 to 4999999999 ns");
  CHECK(refusal(-1) == "nanoseconds -1 is not possible");
  CHECK(refusal(int64_t{1} << 62) == "nanoseconds 4611686018427387904 is not possible");
}

TEST_CASE("QtestAccel: its state is the clock", "[clock][qtest]") {
  const RcuThread rcu_thread;
  BqlGuard guard;
  const auto loop = MUST(MainLoop::create());
  test::ManualClock host(0s);
  VmClock there(host, VmClock::Mode::kStepped);
  there.load({.nanoseconds = 1'234});
  VmClock here(host, VmClock::Mode::kStepped);
  QtestAccel source(loop->service(), there);
  QtestAccel accel(loop->service(), here);
  auto sections = MUST(source.save_state());
  REQUIRE(sections.size() == 1);
  CHECK(sections[0].name == "vm-clock");
  {
    const auto state = MUST(accel.prepare_state(sections));
    CHECK(here.now() == 0ns);  // nothing has changed yet
    MUST(state->apply());
    CHECK(here.now() == 1'234ns);
  }
  const auto refusal = [&](std::span<const StateSection> given) {
    bql.assert_held();
    const auto prepared = accel.prepare_state(given);
    return prepared ? "taken" : prepared.error().message();
  };
  CHECK(refusal({}) == "the state of 'vm-clock' is missing");
  CHECK(refusal(std::vector{sections[0], sections[0]}) == "a state of 'vm-clock' too many");
  CHECK(refusal(std::vector{make_section("vm-clock", VmClockState{.nanoseconds = 1'233})}) ==
        "vm-clock: the clock would go back from 1234 to 1233 ns");
  sections[0].bytes.pop_back();
  CHECK_THAT(refusal(sections), Catch::StartsWith("vm-clock: "));
  CHECK_THAT(accel.describe_state(), Catch::StartsWith("vm-clock\n"));
}
