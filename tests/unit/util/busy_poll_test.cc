#include "util/internal/busy_poll.h"

#include <catch2/catch.hpp>
#include <memory>

#include "tests/support/death.h"
#include "tests/support/watchdog.h"
#include "util/aio_context.h"
#include "util/fd.h"
#include "util/thread.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;
using internal::BusyPoll;

namespace {

BusyPoll make_busy_poll(const BusyPollParams& params) {
  BusyPoll poll;
  poll.configure(params);
  return poll;
}

}  // namespace

TEST_CASE("BusyPoll: is off unless it is given time", "[aio]") {
  CHECK_FALSE(BusyPoll().enabled());
  CHECK_FALSE(make_busy_poll({.longest = 0ns}).enabled());
  CHECK(make_busy_poll({.longest = 1ns}).enabled());
}

TEST_CASE("BusyPoll: grows while work comes within its bound, and no further", "[aio]") {
  BusyPoll poll = make_busy_poll({.longest = 32us, .grow = 2});
  CHECK(poll.span() == 0ns);
  poll.work_came_after(20us);
  CHECK(poll.span() == BusyPoll::kFirstSpan);
  poll.work_came_after(20us);
  CHECK(poll.span() == 8us);
  poll.work_came_after(20us);
  poll.work_came_after(20us);
  CHECK(poll.span() == 32us);
  poll.work_came_after(32us);
  CHECK(poll.span() == 32us);
}

TEST_CASE("BusyPoll: what it caught leaves the span alone", "[aio]") {
  BusyPoll poll = make_busy_poll({.longest = 32us});
  poll.work_came_after(10us);
  poll.work_came_after(10us);
  REQUIRE(poll.span() == 8us);
  poll.work_came_after(8us);
  poll.work_came_after(1us);
  CHECK(poll.span() == 8us);
}

TEST_CASE("BusyPoll: shrinks when no span would have caught the work", "[aio]") {
  BusyPoll by_factor = make_busy_poll({.longest = 32us, .grow = 8, .shrink = 4});
  by_factor.work_came_after(30us);
  by_factor.work_came_after(30us);
  REQUIRE(by_factor.span() == 32us);
  by_factor.work_came_after(33us);
  CHECK(by_factor.span() == 8us);
  BusyPoll at_once = make_busy_poll({.longest = 32us, .shrink = 0});
  at_once.work_came_after(30us);
  at_once.work_came_after(1s);
  CHECK(at_once.span() == 0ns);
}

TEST_CASE("BusyPoll: a bound below the first span holds", "[aio]") {
  BusyPoll poll = make_busy_poll({.longest = 1us});
  poll.work_came_after(500ns);
  CHECK(poll.span() == 1us);
}

TEST_CASE("AioContext: work that comes while it busy-polls costs no wake-up", "[aio]") {
  test::Watchdog watchdog("busy-poll", 60s);
  auto context = MUST(AioContext::create("test"));
  context->set_busy_poll({.longest = 1s});
  int runs = 0;
  Bh bh(*context, [&] { ++runs; });
  const Fd fd = MUST(make_eventfd());
  FdWatch watch = MUST(context->watch(fd.get(), FdEvents::kRead, [](FdEvents) {}));
  // Asked between two looks, on the home thread: another thread schedules just then.
  watch.set_ready_check([&] {
    Thread other = MUST(Thread::start("other", [&] { bh.schedule(); }));
    other.join();
    return false;
  });
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(runs == 1);
  CHECK(context->kicks() == 0);
}

TEST_CASE("AioContext: busy-polling makes no timer late", "[aio][timer]") {
  test::Watchdog watchdog("busy-poll and timers", 60s);
  auto context = MUST(AioContext::create("test"));
  context->set_busy_poll({.longest = 20s, .grow = 1'000'000});
  // Two waits of some 100 us let the span grow to its bound.
  int fired = 0;
  Timer timer(context->timers(), [&] { ++fired; });
  const HostClock clock;
  const Nanoseconds start = clock.now();
  for (int i = 1; i <= 5; ++i) {
    timer.arm_after(100us);
    while (fired < i) context->poll(PollMode::kBlocking);
  }
  CHECK(clock.now() - start < 10s);
}

TEST_CASE("AioContext: busy-poll parameters that make no sense abort", "[aio][death]") {
  auto context = MUST(AioContext::create("test"));
  CHECK(test::dies([&] { context->set_busy_poll({.longest = -1ns}); }));
  CHECK(test::dies([&] { context->set_busy_poll({.longest = 1us, .grow = 0}); }));
}
