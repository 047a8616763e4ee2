#include "util/timer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/manual_clock.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/aio_context.h"
#include "util/mutex.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

struct Fixture {
  test::ManualClock clock;
  int earlier = 0;
  TimerList list{clock, [this] { ++earlier; }};
  std::string log;

  std::unique_ptr<Timer> timer(char name) {
    return std::make_unique<Timer>(list, [this, name] { log += name; });
  }
};

}  // namespace

TEST_CASE("Timer: runs at its deadline, not before, and once", "[timer]") {
  Fixture f;
  const auto timer = f.timer('t');
  timer->arm_at(10ns);
  CHECK(timer->armed());
  CHECK(timer->deadline() == 10ns);
  f.clock.set(9ns);
  CHECK_FALSE(f.list.run_expired());
  f.clock.set(10ns);
  CHECK(f.list.run_expired());
  CHECK_FALSE(timer->armed());
  CHECK(timer->deadline() == Nanoseconds::max());
  CHECK_FALSE(f.list.run_expired());
  CHECK(f.log == "t");
}

TEST_CASE("Timer: the earliest runs first, and of equal ones the first armed", "[timer]") {
  Fixture f;
  const auto a = f.timer('a');
  const auto b = f.timer('b');
  const auto c = f.timer('c');
  const auto d = f.timer('d');
  d->arm_at(5ns);
  b->arm_at(3ns);
  c->arm_at(3ns);
  a->arm_at(1ns);
  d->arm_at(3ns);
  f.clock.set(100ns);
  f.list.run_expired();
  CHECK(f.log == "abcd");
}

TEST_CASE("Timer: arming again replaces the deadline", "[timer]") {
  Fixture f;
  const auto timer = f.timer('t');
  timer->arm_at(10ns);
  timer->arm_at(20ns);
  f.clock.set(10ns);
  CHECK_FALSE(f.list.run_expired());
  timer->arm_at(5ns);
  CHECK(f.list.run_expired());
  CHECK(f.log == "t");
}

TEST_CASE("Timer: a cancelled or destroyed one does not run", "[timer]") {
  Fixture f;
  const auto cancelled = f.timer('c');
  auto destroyed = f.timer('d');
  cancelled->arm_at(1ns);
  destroyed->arm_at(1ns);
  cancelled->cancel();
  destroyed.reset();
  CHECK_FALSE(cancelled->armed());
  f.clock.set(1ns);
  CHECK_FALSE(f.list.run_expired());
  CHECK(f.list.next_deadline() == Nanoseconds::max());
  CHECK(f.log.empty());
}

TEST_CASE("Timer: a callback takes a due sibling back", "[timer]") {
  Fixture f;
  auto sibling = f.timer('s');
  SECTION("by cancelling it") {
    Timer first(f.list, [&] { sibling->cancel(); });
    first.arm_at(1ns);
    sibling->arm_at(1ns);
    f.clock.set(1ns);
    f.list.run_expired();
    CHECK(f.log.empty());
  }
  SECTION("by destroying it") {
    Timer first(f.list, [&] { sibling.reset(); });
    first.arm_at(1ns);
    sibling->arm_at(1ns);
    f.clock.set(1ns);
    f.list.run_expired();
    CHECK(f.log.empty());
  }
  SECTION("by putting it off") {
    Timer first(f.list, [&] { sibling->arm_at(2ns); });
    first.arm_at(1ns);
    sibling->arm_at(1ns);
    f.clock.set(1ns);
    f.list.run_expired();
    CHECK(f.log.empty());
    CHECK(f.list.next_deadline() == 2ns);
    f.clock.set(2ns);
    f.list.run_expired();
    CHECK(f.log == "s");
  }
}

TEST_CASE("Timer: its own callback may destroy it", "[timer]") {
  Fixture f;
  std::unique_ptr<Timer> timer;
  timer = std::make_unique<Timer>(f.list, [&f, &timer, tail = std::string(64, 'x')] {
    timer.reset();
    f.log += tail[63];  // what it captured lives until it returns
  });
  timer->arm_at(0ns);
  CHECK(f.list.run_expired());
  CHECK(f.log == "x");
}

TEST_CASE("Timer: a period is made by arming again in the callback", "[timer]") {
  Fixture f;
  std::optional<Timer> timer;
  std::vector<Nanoseconds> runs;
  timer.emplace(f.list, [&] {
    runs.push_back(f.clock.now());
    timer->arm_after(10ns);
  });
  timer->arm_at(10ns);
  for (int i = 0; i < 35; ++i) {
    f.clock.advance(1ns);
    f.list.run_expired();
  }
  CHECK(runs == std::vector<Nanoseconds>{10ns, 20ns, 30ns});
}

TEST_CASE("Timer: one that is always late starves neither the loop nor its siblings", "[timer]") {
  test::Watchdog watchdog("late timer", 60s);
  Fixture f;
  std::optional<Timer> late;
  late.emplace(f.list, [&] {
    f.log += 'l';
    late->arm_at(-1ns);
  });
  const auto sibling = f.timer('s');
  late->arm_at(-1ns);
  sibling->arm_at(0ns);
  CHECK(f.list.run_expired());
  CHECK(f.log == "ls");
  sibling->arm_at(0ns);
  CHECK(f.list.run_expired());
  CHECK(f.log == "lsls");
}

TEST_CASE("Timer: no delay is too long", "[timer]") {
  Fixture f;
  f.clock.set(1h);
  const auto timer = f.timer('t');
  timer->arm_after(Nanoseconds::max());
  CHECK(timer->deadline() == Nanoseconds::max());
  CHECK(timer->armed());
  CHECK(f.list.host_time_until_next() == Nanoseconds::max());
  CHECK_FALSE(f.list.run_expired());
  timer->arm_after(Nanoseconds::max() - 1h - 1ns);
  CHECK(timer->deadline() == Nanoseconds::max() - 1ns);
  CHECK(HostClock().host_time_until(Nanoseconds::min()) == 0ns);
}

TEST_CASE("TimerList: a nested call goes on where the outer one stands", "[timer]") {
  Fixture f;
  Timer outer(f.list, [&] {
    f.log += '(';
    // Due already, so a nested poll must not sleep.
    CHECK(f.list.next_deadline() == 1ns);
    CHECK(f.list.run_expired());
    f.log += ')';
  });
  const auto a = f.timer('a');
  const auto b = f.timer('b');
  outer.arm_at(0ns);
  a->arm_at(1ns);
  b->arm_at(2ns);
  f.clock.set(5ns);
  CHECK(f.list.run_expired());
  CHECK(f.log == "(ab)");
  CHECK_FALSE(f.list.run_expired());
}

TEST_CASE("TimerList: the loop is told when the earliest deadline moves forward only", "[timer]") {
  Fixture f;
  const auto a = f.timer('a');
  const auto b = f.timer('b');
  a->arm_at(10ns);
  CHECK(f.earlier == 1);
  b->arm_at(20ns);
  b->arm_at(10ns);
  a->arm_at(15ns);
  CHECK(f.earlier == 1);
  b->arm_at(9ns);
  CHECK(f.earlier == 2);
  b->cancel();
  CHECK(f.earlier == 2);
  CHECK(f.list.next_deadline() == 15ns);
}

TEST_CASE("TimerList: host time until the next timer follows the list's clock", "[timer]") {
  Fixture f;
  const auto timer = f.timer('t');
  CHECK(f.list.host_time_until_next() == Nanoseconds::max());
  timer->arm_at(10ns);
  CHECK(f.list.host_time_until_next() == Nanoseconds::max());  // only the test moves this clock
  f.clock.set(10ns);
  CHECK(f.list.host_time_until_next() == 0ns);
}

TEST_CASE("TimerList: behaves as the naive one under random use", "[timer]") {
  struct Model {
    Nanoseconds deadline = Nanoseconds::max();
    int order = 0;
  };
  constexpr size_t kTimers = 40;
  const int steps = test::sized(20'000, 1'000'000);
  Fixture f;
  std::vector<size_t> ran;
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<Model> model(kTimers);
  for (size_t i = 0; i < kTimers; ++i) {
    timers.push_back(std::make_unique<Timer>(f.list, [&ran, i] { ran.push_back(i); }));
  }
  std::mt19937 random(7);
  const auto pick = [&random](int n) {
    return static_cast<int>(random() % static_cast<unsigned>(n));
  };
  bool same = true;
  for (int step = 0; step < steps && same; ++step) {
    const auto i = static_cast<size_t>(pick(kTimers));
    const int action = pick(10);
    if (action < 6) {
      model[i] = {f.clock.now() + Nanoseconds(pick(50) - 5), step};
      timers[i]->arm_at(model[i].deadline);
    } else if (action < 8) {
      model[i] = {};
      timers[i]->cancel();
    } else {
      f.clock.advance(Nanoseconds(pick(20)));
      std::vector<size_t> expected;
      for (size_t t = 0; t < kTimers; ++t) {
        if (model[t].deadline <= f.clock.now()) expected.push_back(t);
      }
      std::ranges::sort(expected, {},
                        [&](size_t t) { return std::tuple(model[t].deadline, model[t].order); });
      for (const size_t t : expected) model[t] = {};
      ran.clear();
      same = f.list.run_expired() == !expected.empty() && ran == expected;
    }
    const auto first = std::ranges::min(model, {}, &Model::deadline).deadline;
    same = same && f.list.next_deadline() == first;
  }
  CHECK(same);
}

TEST_CASE("TimerList: other threads may arm and cancel while it runs", "[timer][stress]") {
  test::Watchdog watchdog("timers from two threads", 120s);
  const int rounds = test::sized(2'000, 200'000);
  Fixture f;
  // As with the machine's clock: callbacks run under a lock that whoever arms holds too.
  Mutex big(LockRank::kBql);
  int runs = 0;
  Timer timer(f.list, [&] { ++runs; });
  std::atomic<bool> done = false;
  Thread other = MUST(Thread::start("other", [&] {
    for (int i = 0; i < rounds; ++i) {
      MutexLock lock(big);
      timer.arm_at(f.clock.now());
      if (i % 3 == 0) timer.cancel();
      test::Watchdog::feed();
    }
    done = true;
  }));
  while (!done) {
    static_cast<void>(f.list.host_time_until_next());
    MutexLock lock(big);
    f.list.run_expired();
  }
  other.join();
  f.list.run_expired();
  CHECK(runs > 0);
  CHECK_FALSE(timer.armed());
}

TEST_CASE("TimerList: one that goes with an armed timer aborts", "[timer][death]") {
  CHECK(test::dies([] {
    test::ManualClock clock;
    auto list = std::make_unique<TimerList>(clock, [] {});
    Timer timer(*list, [] {});
    timer.arm_at(1ns);
    list.reset();
  }));
}

TEST_CASE("AioContext: sleeps for a timer to the nanosecond, and not by spinning", "[timer][aio]") {
  test::Watchdog watchdog("timer precision", 60s);
  auto context = MUST(AioContext::create("test"));
  const HostClock clock;
  Nanoseconds fired{};
  Timer timer(context->timers(), [&] { fired = clock.now(); });
  Nanoseconds least_late = Nanoseconds::max();
  int early = 0;
  int polls = 0;
  for (int i = 0; i < 50; ++i) {
    fired = {};
    const Nanoseconds deadline = clock.now() + 200us;
    timer.arm_at(deadline);
    while (fired == 0ns) {
      context->poll(PollMode::kBlocking);
      ++polls;
    }
    early += fired < deadline ? 1 : 0;
    least_late = std::min(least_late, fired - deadline);
  }
  CHECK(early == 0);
  CHECK(polls <= 110);        // one sleep each, and now and then a kernel that wakes early
  CHECK(least_late < 500us);  // a millisecond's rounding would be later
}
