#include "util/notify_gate.h"

#include <poll.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <thread>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/fd.h"
#include "util/one_shot_event.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

/// The 2015 defect: "somebody is dispatching" in one bool, which every thread that polls sets.
class DispatchingFlagGate {
 public:
  void prepare_to_sleep() {}
  void done_sleeping() {}
  void begin_dispatch() { dispatching_ = true; }
  void end_dispatch() { dispatching_ = false; }
  template <class Kick>
  bool notify(Kick&& kick) {
    if (dispatching_) return false;
    std::forward<Kick>(kick)();
    return true;
  }

 private:
  std::atomic<bool> dispatching_ = false;
};

/// In which order a poller takes the protocol's steps.
enum class Order : uint8_t { kRight, kCountAfterLook, kClearAfterConsume };

/// The smallest loop that follows the gate's protocol: one bottom half and an eventfd. Unlike an
/// AioContext it may be polled by several threads, which is where flags fail.
template <class Gate, Order kOrder = Order::kRight>
class Loop {
 public:
  using Handler = std::function<void()>;

  /// Runs `bh` once on some polling thread; schedules of a pending one are left alone.
  void schedule() {
    if (pending_.exchange(true)) return;
    gate_.notify([this] {
      kicks_.fetch_add(1);
      signal_eventfd(event_.get());
    });
  }

  /// Sleeps until there is something to do. `looked` is called when the look at pending work has
  /// found none, so that the thread is bound to sleep.
  void poll_blocking(const Handler& looked = {}) {
    if (kOrder != Order::kCountAfterLook) gate_.prepare_to_sleep();
    const bool work = pending_;
    if (!work && looked) looked();
    if (kOrder == Order::kCountAfterLook) gate_.prepare_to_sleep();
    if (!work) {
      pollfd ready{.fd = event_.get(), .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, -1);
    }
    gate_.done_sleeping();
    dispatch({}, {});
  }

  /// Never sleeps. `other` is some other handler that happens to be ready, `between` is called
  /// between the eventfd's clearing and the consumption.
  void poll_nonblocking(const Handler& other = {}, const Handler& between = {}) {
    dispatch(other, between);
  }

  /// What an unrelated descriptor does to a sleeping loop.
  void wake() { signal_eventfd(event_.get()); }
  void set_bh(Handler bh) { bh_ = std::move(bh); }
  bool pending() const { return pending_; }
  int kicks() const { return kicks_; }
  bool signalled() const { return clear_eventfd(event_.get()); }
  Gate& gate() { return gate_; }

 private:
  void dispatch(const Handler& other, const Handler& between) {
    if constexpr (requires { gate_.begin_dispatch(); }) gate_.begin_dispatch();
    if (kOrder != Order::kClearAfterConsume) clear_eventfd(event_.get());
    if (kOrder != Order::kClearAfterConsume && between) between();
    if (pending_.exchange(false)) bh_();
    if (kOrder == Order::kClearAfterConsume && between) between();
    if (kOrder == Order::kClearAfterConsume) clear_eventfd(event_.get());
    if (other) other();
    if constexpr (requires { gate_.end_dispatch(); }) gate_.end_dispatch();
  }

  Gate gate_;
  Fd event_ = make_eventfd().value();
  std::atomic<bool> pending_ = false;
  std::atomic<int> kicks_ = 0;
  Handler bh_ = [] {};
};

struct Outcome {
  bool ran;          // A ran the bottom half in time
  int kicks;         // eventfd writes
  bool left_behind;  // the work was pending when B and C had gone
};

/// T003b: A sleeps in poll; B comes by, polls, and its handler schedules; C schedules again.
template <class Gate>
Outcome three_threads(std::chrono::milliseconds patience) {
  Loop<Gate> loop;
  OneShotEvent asleep;
  OneShotEvent ran;
  loop.set_bh([&] { ran.set(); });
  Thread a = MUST(Thread::start("A", [&] { loop.poll_blocking([&] { asleep.set(); }); }));
  asleep.wait();
  Thread b = MUST(Thread::start("B", [&] { loop.poll_nonblocking([&] { loop.schedule(); }); }));
  b.join();
  Thread c = MUST(Thread::start("C", [&] { loop.schedule(); }));
  c.join();
  const Outcome outcome{
      .ran = ran.wait_for(patience), .kicks = loop.kicks(), .left_behind = loop.pending()};
  loop.wake();  // a hung A would never join
  return outcome;
}

/// I8: work comes between a poller's look and its sleep. True if it runs in time.
template <Order kOrder>
bool survives_work_after_look(std::chrono::milliseconds patience) {
  Loop<NotifyGate, kOrder> loop;
  OneShotEvent ran;
  loop.set_bh([&] { ran.set(); });
  Thread a = MUST(Thread::start("A", [&] { loop.poll_blocking([&] { loop.schedule(); }); }));
  const bool in_time = ran.wait_for(patience);
  loop.wake();
  return in_time;
}

/// I9: A is bound to sleep; B passes through, and work comes between its two steps. True if the
/// work runs in time.
template <Order kOrder>
bool survives_work_between_steps(std::chrono::milliseconds patience) {
  Loop<NotifyGate, kOrder> loop;
  OneShotEvent bound_to_sleep;
  OneShotEvent b_gone;
  OneShotEvent ran;
  loop.set_bh([&] { ran.set(); });
  Thread a = MUST(Thread::start("A", [&] {
    loop.poll_blocking([&] {
      bound_to_sleep.set();
      b_gone.wait();
    });
  }));
  bound_to_sleep.wait();
  loop.poll_nonblocking({}, [&] { loop.schedule(); });
  b_gone.set();
  const bool in_time = ran.wait_for(patience);
  loop.wake();
  return in_time;
}

}  // namespace

TEST_CASE("T003b: a sleeper runs what another thread schedules while dispatching", "[notify]") {
  test::Watchdog watchdog("T003b", 60s);
  const Outcome outcome = three_threads<NotifyGate>(30s);
  CHECK(outcome.ran);
  CHECK(outcome.kicks == 1);
}

TEST_CASE("T003b: a dispatching flag instead of the count leaves the sleeper asleep", "[notify]") {
  test::Watchdog watchdog("T003b with a flag", 60s);
  const Outcome outcome = three_threads<DispatchingFlagGate>(100ms);
  CHECK_FALSE(outcome.ran);
  CHECK(outcome.kicks == 0);
  CHECK(outcome.left_behind);
}

TEST_CASE("T003b: the count goes up before the look at pending work", "[notify]") {
  test::Watchdog watchdog("T003b count and look", 60s);
  CHECK(survives_work_after_look<Order::kRight>(30s));
  CHECK_FALSE(survives_work_after_look<Order::kCountAfterLook>(100ms));
}

TEST_CASE("T003b: the eventfd is cleared before the work is consumed", "[notify]") {
  test::Watchdog watchdog("T003b clear and consume", 60s);
  CHECK(survives_work_between_steps<Order::kRight>(30s));
  CHECK_FALSE(survives_work_between_steps<Order::kClearAfterConsume>(100ms));
}

TEST_CASE("T003c: with nobody asleep a schedule writes no eventfd", "[notify]") {
  test::Watchdog watchdog("T003c", 60s);
  Loop<NotifyGate> loop;
  int runs = 0;
  loop.set_bh([&] { ++runs; });
  loop.schedule();
  loop.schedule();
  CHECK(loop.kicks() == 0);
  CHECK_FALSE(loop.signalled());
  bool slept = false;
  loop.poll_blocking([&] { slept = true; });
  CHECK_FALSE(slept);
  CHECK(runs == 1);
  CHECK(loop.gate().sleepers() == 0);
}

TEST_CASE("T003c: a poll that does not block raises no count", "[notify]") {
  Loop<NotifyGate> loop;
  uint32_t sleepers = 99;
  loop.poll_nonblocking([&] {
    sleepers = loop.gate().sleepers();
    loop.schedule();
  });
  CHECK(sleepers == 0);
  CHECK(loop.kicks() == 0);
  CHECK(loop.pending());
}

TEST_CASE("T003c: a nested blocking poll is woken", "[notify]") {
  test::Watchdog watchdog("T003c nested", 60s);
  Loop<NotifyGate> loop;
  OneShotEvent nested_asleep;
  uint32_t sleepers_in_handler = 99;
  uint32_t sleepers_nested = 99;
  int depth = 0;
  int runs = 0;
  loop.set_bh([&] {
    ++runs;
    if (++depth > 1) return;
    sleepers_in_handler = loop.gate().sleepers();
    loop.poll_blocking([&] {
      sleepers_nested = loop.gate().sleepers();
      nested_asleep.set();
    });
  });
  loop.schedule();
  Thread poller = MUST(Thread::start("poller", [&] { loop.poll_blocking(); }));
  nested_asleep.wait();
  loop.schedule();
  poller.join();
  CHECK(runs == 2);
  CHECK(sleepers_in_handler == 0);
  CHECK(sleepers_nested == 1);
  CHECK(loop.kicks() == 1);
  CHECK(loop.gate().sleepers() == 0);
}

TEST_CASE("T003d: what eight threads schedule is consumed, nothing lost", "[notify][stress]") {
  test::Watchdog watchdog("T003d", 500s);
  constexpr uint64_t kSchedulers = 8;
  const uint64_t each = test::sized<uint64_t>(10'000, 1'000'000);
  Loop<NotifyGate> loop;
  std::atomic<uint64_t> items = 0;
  std::atomic<uint64_t> consumed = 0;
  const auto done = [&] { return consumed == kSchedulers * each; };
  loop.set_bh([&] { consumed += items.exchange(0); });
  std::vector<Thread> threads;
  for (uint64_t i = 0; i < kSchedulers; ++i) {
    threads.push_back(MUST(Thread::start("scheduler", [&] {
      for (uint64_t n = 0; n < each; ++n) {
        items.fetch_add(1);
        loop.schedule();
        // Now and then all wait, so that the pollers sleep and no later schedule hides a loss.
        while (n % 16 == 0 && items != 0) std::this_thread::yield();
        test::Watchdog::feed();
      }
    })));
  }
  // A second thread polls the same loop, blocking and not; whoever finishes lets the other go.
  threads.push_back(MUST(Thread::start("temporary", [&] {
    while (!done()) {
      loop.poll_nonblocking();
      if (!done()) loop.poll_blocking();
    }
    loop.wake();
  })));
  while (!done()) loop.poll_blocking();
  loop.wake();
  threads.clear();
  CHECK(consumed == kSchedulers * each);
  CHECK(items == 0);
  CHECK_FALSE(loop.pending());
  CHECK(loop.gate().sleepers() == 0);
}

TEST_CASE("NotifyGate: a poller that leaves does not take another's count along", "[notify]") {
  NotifyGate gate;
  gate.prepare_to_sleep();
  gate.prepare_to_sleep();
  gate.done_sleeping();
  CHECK(gate.sleepers() == 1);
  CHECK(gate.notify([] {}));
  gate.done_sleeping();
  CHECK_FALSE(gate.notify([] {}));
}

TEST_CASE("NotifyGate: waking up without having slept aborts", "[notify][death]") {
  CHECK(test::dies([] {
    NotifyGate gate;
    gate.done_sleeping();
  }));
}
