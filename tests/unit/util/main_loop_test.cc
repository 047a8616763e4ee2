#include "util/main_loop.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/busy_ring.h"
#include "tests/support/death.h"
#include "tests/support/manual_clock.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/support/without_io_ring.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/mutex.h"
#include "util/one_shot_event.h"
#include "util/rcu.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr const char* kLooked = "MainLoop::turn: looked, not yet asleep";

std::unique_ptr<MainLoop> make_loop() { return MUST(MainLoop::create()); }

template <class F>
void elsewhere(F f) {
  MUST(Thread::start("elsewhere", std::move(f)));
}

/// For lambdas, which the thread-safety analysis looks at alone.
void one_turn(MainLoop& loop) {
  bql.assert_held();
  loop.turn();
}

AioContext& pick(MainLoop& loop, bool service) { return service ? loop.service() : loop.block(); }

}  // namespace

TEST_CASE("MainLoop: the BQL is free while it sleeps, and only then", "[main_loop]") {
  test::Watchdog watchdog("BQL while asleep", 60s);
  auto loop = make_loop();
  std::string log;
  BqlGuard guard;
  Thread other = MUST(Thread::start("other", [&] {
    BqlGuard theirs;  // main holds it until it sleeps
    log += 'o';
    loop->service().post([&] { log += bql.held() ? 'm' : '!'; });
  }));
  log += 'a';
  loop->turn();
  while (log.size() < 3) loop->turn();
  other.join();
  CHECK(bql.held());
  CHECK(log == "aom");
}

TEST_CASE("MainLoop: its sleep submits the block context's requests and ends with them",
          "[main_loop][io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("block I/O in the main loop", 60s);
  auto loop = make_loop();
  BqlGuard guard;
  AioContext& block = loop->block();
  std::optional<test::BusyRing> busy;
  block.post([&] { busy.emplace(block); });  // queued in a turn, to be submitted by the next sleep
  while (!busy.has_value()) loop->turn();
  {
    const test::SyncAction action(kLooked, [&] {
      CHECK(block.io_ring()->counters().enters == 1);
      elsewhere([&] { busy->finish(); });
    });
    loop->turn();
  }
  while (!busy->done()) loop->turn();
  CHECK(busy->result() == 1);
}

TEST_CASE("MainLoop: a request that a kernel thread carries out ends its sleep",
          "[main_loop][io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("block I/O by a kernel thread", 60s);
  auto loop = make_loop();
  BqlGuard guard;
  const test::TempDir folder;
  const Fd file(::open(folder.file("f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  int done = 0;
  MUST(spawn(loop->block(), [&](Co& co) {
    IoRing& ring = *loop->block().io_ring();
    const RingFile ring_file{file.get(), RingFile::Kind::kDescriptor};
    // A flush never completes at once: the kernel gives it to a thread of its own.
    for (; done < 20; ++done) CHECK(ring.co_fsync(co, ring_file, FsyncKind::kAll) == 0);
  }));
  while (done < 20) loop->turn();
}

TEST_CASE("MainLoop: work for either context ends its sleep while I/O is in flight",
          "[main_loop][io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("main loop with I/O in flight", 60s);
  auto loop = make_loop();
  BqlGuard guard;
  test::BusyRing busy(loop->block());
  for (const bool service : {true, false}) {
    int runs = 0;
    Bh bh(pick(*loop, service), [&] { ++runs; });
    {
      const test::SyncAction action(kLooked, [&] { elsewhere([&] { bh.schedule(); }); });
      while (runs == 0) one_turn(*loop);
    }
    CHECK(runs >= 1);
  }
  // A nested poll of the block context sleeps in the ring and sees the request through.
  loop->service().post([&] {
    busy.finish();
    while (!busy.done()) loop->block().poll(PollMode::kBlocking);
  });
  while (!busy.done()) loop->turn();
  CHECK(busy.result() == 1);
}

TEST_CASE("MainLoop: handlers of every kind run with the BQL held", "[main_loop]") {
  test::Watchdog watchdog("handlers under the BQL", 60s);
  auto loop = make_loop();
  test::ManualClock clock;
  TimerList vm_timers(clock, [&] { loop->service().notify(); });
  const Fd fd = MUST(make_eventfd());
  std::string log;
  const auto note = [&log](char what) { log += bql.held() ? what : '!'; };
  BqlGuard guard;
  for (const bool service : {true, false}) {
    AioContext& context = pick(*loop, service);
    context.post([&] { note('p'); });
    const FdWatch watch =
        MUST(context.watch(fd.get(), FdEvents::kRead, [&](FdEvents) { note('f'); }));
    signal_eventfd(fd.get());
    Timer timer(context.timers(), [&] { note('t'); });
    timer.arm_at(0ns);
    MUST(spawn(context, [&](Co&) { note('c'); }));
    loop->turn();
  }
  loop->serve_timers(&vm_timers);
  Timer timer(vm_timers, [&] { note('v'); });
  timer.arm_at(0ns);
  loop->turn();
  CHECK(log == "fpctfpctv");
}

TEST_CASE("MainLoop: work for either context that comes while it falls asleep wakes it",
          "[main_loop][notify]") {
  test::Watchdog watchdog("main loop falls asleep", 60s);
  const bool service = GENERATE(true, false);
  auto loop = make_loop();
  int runs = 0;
  Bh bh(pick(*loop, service), [&] { ++runs; });
  BqlGuard guard;
  {
    test::SyncAction at(kLooked, [&] { elsewhere([&] { bh.schedule(); }); });
    loop->turn();
  }
  CHECK(runs == 1);
  CHECK(pick(*loop, service).kicks() == 1);
  CHECK(pick(*loop, !service).kicks() == 0);
}

TEST_CASE("MainLoop: a descriptor of either context wakes it", "[main_loop]") {
  test::Watchdog watchdog("main loop descriptors", 60s);
  const bool service = GENERATE(true, false);
  auto loop = make_loop();
  const Fd fd = MUST(make_eventfd());
  int calls = 0;
  const FdWatch watch = MUST(pick(*loop, service).watch(fd.get(), FdEvents::kRead, [&](FdEvents) {
    ++calls;
    clear_eventfd(fd.get());
  }));
  BqlGuard guard;
  test::SyncAction at(kLooked, [&] { elsewhere([&] { signal_eventfd(fd.get()); }); });
  loop->turn();
  CHECK(calls == 1);
}

TEST_CASE("T003c: MainLoop: with main awake a schedule writes no eventfd", "[main_loop][notify]") {
  test::Watchdog watchdog("T003c main loop", 60s);
  auto loop = make_loop();
  int runs = 0;
  Bh service(loop->service(), [&] { ++runs; });
  Bh block(loop->block(), [&] { ++runs; });
  BqlGuard guard;
  service.schedule();
  elsewhere([&] { block.schedule(); });
  loop->turn();
  // From a handler, for the other context.
  loop->block().post([&] { service.schedule(); });
  loop->turn();
  loop->turn();
  CHECK(runs == 3);
  CHECK(loop->service().kicks() == 0);
  CHECK(loop->block().kicks() == 0);
}

TEST_CASE("MainLoop: a nested poll keeps the BQL and leaves the service context alone",
          "[main_loop]") {
  test::Watchdog watchdog("nested poll keeps the BQL", 60s);
  auto loop = make_loop();
  std::string log;
  uint64_t before = 0;
  uint64_t after = 0;
  std::optional<Thread> vcpu;
  BqlGuard guard;
  loop->service().post([&] {
    log += '(';
    before = bql.acquisitions();
    OneShotEvent started;
    vcpu = MUST(Thread::start("vcpu", [&] {
      started.set();
      BqlGuard theirs;
      log += 'v';
      loop->service().notify();
    }));
    started.wait();
    loop->service().post([&] { log += 's'; });
    test::SyncAction at("AioContext::poll: looked, not yet asleep",
                        [&] { elsewhere([&] { loop->block().post([&] { log += 'b'; }); }); });
    while (log.back() != 'b') loop->block().poll(PollMode::kBlocking);
    after = bql.acquisitions();
    log += ')';
  });
  loop->turn();
  CHECK(log == "(b)");
  CHECK(before == after);
  while (log.size() < 5) loop->turn();
  vcpu->join();
  CHECK(log.find('s') != std::string::npos);
  CHECK(log.find('v') != std::string::npos);
}

TEST_CASE("MainLoop: run ends after request_quit", "[main_loop]") {
  test::Watchdog watchdog("request_quit", 60s);
  auto loop = make_loop();
  BqlGuard guard;
  SECTION("that came before") {
    loop->request_quit();
    loop->run();
  }
  SECTION("from a handler, and finishes the turn") {
    std::string log;
    loop->service().post([&] { loop->request_quit(); });
    loop->block().post([&] { log += 'b'; });
    loop->run();
    CHECK(log == "b");
  }
  SECTION("from another thread, while it falls asleep") {
    test::SyncAction at(kLooked, [&] { elsewhere([&] { loop->request_quit(); }); });
    loop->run();
  }
}

TEST_CASE("MainLoop: serves the machine's timers until told otherwise", "[main_loop][timer]") {
  test::Watchdog watchdog("machine's timers", 60s);
  auto loop = make_loop();
  test::ManualClock clock;
  TimerList vm_timers(clock, [&] { loop->service().notify(); });
  int fired = 0;
  Timer timer(vm_timers, [&] { ++fired; });
  BqlGuard guard;
  loop->serve_timers(&vm_timers);
  timer.arm_at(10ns);
  loop->turn();
  CHECK(fired == 0);
  clock.set(10ns);
  loop->turn();  // due: does not sleep
  CHECK(fired == 1);
  SECTION("armed earlier by a vCPU while main falls asleep") {
    test::SyncAction at(kLooked, [&] { elsewhere([&] { timer.arm_at(5ns); }); });
    loop->turn();
    CHECK(fired == 2);
  }
  SECTION("not when they are no longer served") {
    loop->serve_timers(nullptr);
    timer.arm_at(0ns);
    loop->turn();
    CHECK(fired == 1);
  }
}

TEST_CASE("MainLoop: sleeps for a timer to the nanosecond, and not by spinning",
          "[main_loop][timer]") {
  test::Watchdog watchdog("main loop precision", 60s);
  auto loop = make_loop();
  const HostClock clock;
  TimerList vm_timers(clock, [&] { loop->service().notify(); });
  Nanoseconds fired{};
  Timer of_context(loop->block().timers(), [&] { fired = clock.now(); });
  Timer of_machine(vm_timers, [&] { fired = clock.now(); });
  BqlGuard guard;
  loop->serve_timers(&vm_timers);
  loop->turn();
  Nanoseconds least_late = Nanoseconds::max();
  int early = 0;
  int turns = 0;
  for (int i = 0; i < 50; ++i) {
    fired = {};
    const Nanoseconds deadline = clock.now() + 200us;
    (i % 2 == 0 ? of_context : of_machine).arm_at(deadline);
    while (fired == 0ns) {
      loop->turn();
      ++turns;
    }
    early += fired < deadline ? 1 : 0;
    least_late = std::min(least_late, fired - deadline);
  }
  CHECK(early == 0);
  CHECK(turns <= 160);  // arming the machine's notifies, which costs a turn
  CHECK(least_late < 500us);
}

TEST_CASE("MainLoop: a context polled out of its turn aborts", "[main_loop][death]") {
  auto loop = make_loop();
  SECTION("the service context is polled by the main loop alone") {
    CHECK(test::dies([&] {
      BqlGuard guard;
      loop->service().poll(PollMode::kNonBlocking);
    }));
    CHECK(test::dies([&] {
      BqlGuard guard;
      loop->block().post([&] { loop->service().poll(PollMode::kNonBlocking); });
      one_turn(*loop);
    }));
  }
  SECTION("the block context is polled with the BQL held") {
    CHECK(test::dies([&] { loop->block().poll(PollMode::kNonBlocking); }));
    CHECK_FALSE(test::dies([&] {
      BqlGuard guard;
      loop->block().poll(PollMode::kNonBlocking);
    }));
  }
}

TEST_CASE("MainLoop: a turn where none may be aborts", "[main_loop][death]") {
  auto loop = make_loop();
  const auto turn_dies = [&](auto setting) {
    return test::dies([&] {
      BqlGuard guard;
      loop->service().notify();
      setting();
    });
  };
  SECTION("a turn inside a turn") {
    CHECK(turn_dies([&] {
      loop->service().post([&] { one_turn(*loop); });
      one_turn(*loop);
    }));
  }
  SECTION("a turn inside an RCU read section") {
    RcuThread registration;
    CHECK(turn_dies([&] {
      RcuReadGuard section;
      one_turn(*loop);
    }));
  }
  SECTION("a turn with a lock held") {
    Mutex mutex;
    CHECK(turn_dies([&] {
      MutexLock lock(mutex);
      one_turn(*loop);
    }));
  }
  SECTION("a turn inside a coroutine") {
    CHECK(turn_dies([&] { MUST(start_here(loop->block(), [&](Co&) { one_turn(*loop); })); }));
  }
  SECTION("a turn on another thread") {
    std::unique_ptr<MainLoop> foreign;
    elsewhere([&] { foreign = make_loop(); });
    CHECK(test::dies([&] {
      BqlGuard guard;
      foreign->service().notify();
      one_turn(*foreign);
    }));
  }
  CHECK_FALSE(turn_dies([&] { one_turn(*loop); }));
}
