#include "util/io_thread.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/watchdog.h"
#include "util/bql.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/one_shot_event.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

/// Runs `f` on the iothread and waits for it.
template <class F>
void run_on(IOThread& iothread, F f) {
  OneShotEvent done;
  iothread.context().post([&] {
    f();
    done.set();
  });
  done.wait();
}

}  // namespace

TEST_CASE("IOThread: its context lives on a thread of that name", "[iothread]") {
  test::Watchdog watchdog("iothread home", 60s);
  auto iothread = MUST(IOThread::create("iothread0"));
  CHECK_FALSE(iothread->context().is_home());
  bool at_home = false;
  std::array<char, 16> name{};
  run_on(*iothread, [&] {
    at_home = iothread->context().is_home();
    pthread_getname_np(pthread_self(), name.data(), name.size());
  });
  CHECK(at_home);
  CHECK(std::string(name.data()) == "iothread0");
  CHECK(iothread->name() == "iothread0");
}

TEST_CASE("IOThread: one that nobody used stops", "[iothread]") {
  test::Watchdog watchdog("idle iothread", 60s);
  for (int i = 0; i < 20; ++i) static_cast<void>(MUST(IOThread::create("idle")));
}

TEST_CASE("IOThread: what was posted before it goes still runs, in order", "[iothread]") {
  test::Watchdog watchdog("iothread runs the rest", 60s);
  std::string log;
  {
    auto iothread = MUST(IOThread::create("io"));
    iothread->context().post([&] { log += 'a'; });
    Bh bh(iothread->context(), [&] { log += 'b'; });
    bh.schedule();
    iothread->context().post([&] { log += 'c'; });
    iothread.reset();
  }
  CHECK(log == "abc");
}

TEST_CASE("IOThread: serves descriptors, timers and coroutines", "[iothread]") {
  test::Watchdog watchdog("iothread serves", 60s);
  auto iothread = MUST(IOThread::create("io"));
  AioContext& context = iothread->context();
  const Fd fd = MUST(make_eventfd());
  OneShotEvent readable;
  OneShotEvent fired;
  OneShotEvent resumed;
  FdWatch watch;
  auto timer = std::make_unique<Timer>(context.timers(), [&] { fired.set(); });
  const auto on_readable = [&](FdEvents) {
    clear_eventfd(fd.get());
    readable.set();
  };
  run_on(*iothread, [&] {
    watch = MUST(context.watch(fd.get(), FdEvents::kRead, on_readable));
    timer->arm_after(1us);
  });
  signal_eventfd(fd.get());
  readable.wait();
  fired.wait();
  MUST(spawn(context, [&](Co& co) {
    co.reschedule();
    resumed.set();
  }));
  resumed.wait();
  run_on(*iothread, [&] {
    watch = {};
    timer.reset();
  });
}

TEST_CASE("IOThread: what a post carries ends at home when the thread is gone", "[iothread]") {
  test::Watchdog watchdog("iothread leftovers", 60s);
  const Fd fd = MUST(make_eventfd());
  {
    auto iothread = MUST(IOThread::create("io"));
    AioContext& context = iothread->context();
    run_on(*iothread, [&] {
      auto watch = std::make_unique<FdWatch>(
          MUST(context.watch(fd.get(), FdEvents::kRead, [](FdEvents) {})));
      // Runs in the last turn; what it posts never runs.
      context.post([&context, w = std::move(watch)]() mutable {
        context.post(
            [&context, w2 = std::move(w)]() mutable { context.post([w3 = std::move(w2)] {}); });
      });
    });
  }
  SUCCEED("the watch ended on this thread, which is the context's home by then");
}

TEST_CASE("IOThread: busy-polling is per thread, and posts arrive with it", "[iothread]") {
  test::Watchdog watchdog("busy-polling iothread", 60s);
  auto iothread = MUST(IOThread::create("io", {.longest = 100us, .grow = 4, .shrink = 2}));
  int runs = 0;
  for (int i = 0; i < 1000; ++i) run_on(*iothread, [&] { ++runs; });
  CHECK(runs == 1000);
}

TEST_CASE("IOThread: two hand work to each other", "[iothread]") {
  test::Watchdog watchdog("iothread ping-pong", 60s);
  constexpr int kRounds = 2000;
  auto a = MUST(IOThread::create("a"));
  auto b = MUST(IOThread::create("b"));
  OneShotEvent done;
  int rounds = 0;
  std::unique_ptr<Bh> ping;
  std::unique_ptr<Bh> pong;
  ping = std::make_unique<Bh>(a->context(), [&] { pong->schedule(); });
  pong = std::make_unique<Bh>(b->context(), [&] {
    if (++rounds == kRounds) return done.set();
    ping->schedule();
  });
  ping->schedule();
  done.wait();
  CHECK(rounds == kRounds);
  a.reset();
  b.reset();
}

TEST_CASE("IOThread: one that would join itself aborts", "[iothread][death]") {
  // The child has no second thread: a context whose home is this one stands in for being there.
  auto iothread = MUST(IOThread::create("io"));
  CHECK(test::dies([&] {
    iothread->context().rebind_home();
    iothread.reset();
  }));
}
