#include "util/thread_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "util/aio_context.h"
#include "util/io_thread.h"
#include "util/one_shot_event.h"
#include "util/rcu.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<AioContext> make_context() { return MUST(AioContext::create("replies")); }

/// A pool, and a context that gets its replies.
struct Fixture {
  explicit Fixture(ThreadPool::Limits limits = {}) : pool(limits) {}
  // Replies that are on their way must be taken before the context goes.
  ~Fixture() {
    pool.stop();
    while (context->poll(PollMode::kNonBlocking)) {
    }
  }

  template <class F>
  PoolJobId submit(char name, F work) {
    return MUST(pool.submit(*context, std::move(work), [this, name](PoolOutcome outcome) {
      replies += name;
      replies += outcome == PoolOutcome::kRan ? '+' : '-';
    }));
  }
  void poll_until_replies(size_t count) {
    while (replies.size() < 2 * count) context->poll(PollMode::kBlocking);
  }

  std::unique_ptr<AioContext> context = make_context();
  std::string replies;
  ThreadPool pool;
};

/// Work that stays on its worker until it is let go.
struct Held {
  OneShotEvent started;
  OneShotEvent go;
  auto work() {
    return [this] {
      started.set();
      go.wait();
    };
  }
};

}  // namespace

TEST_CASE("ThreadPool: work runs on a worker, and its reply at home", "[pool]") {
  test::Watchdog watchdog("pool reply", 60s);
  Fixture f;
  const auto home = std::this_thread::get_id();
  std::thread::id worked;
  std::thread::id replied;
  PoolOutcome outcome = PoolOutcome::kCancelled;
  MUST(f.pool.submit(
      *f.context, [&] { worked = std::this_thread::get_id(); },
      [&](PoolOutcome o) {
        replied = std::this_thread::get_id();
        outcome = o;
      }));
  while (replied == std::thread::id()) f.context->poll(PollMode::kBlocking);
  CHECK(outcome == PoolOutcome::kRan);
  CHECK(replied == home);
  CHECK(worked != home);
  CHECK(worked != std::thread::id());
}

TEST_CASE("ThreadPool: has no thread before the first job, and one while one is enough", "[pool]") {
  test::Watchdog watchdog("pool reuses its thread", 60s);
  Fixture f;
  CHECK(f.pool.threads() == 0);
  for (int i = 0; i < 100; ++i) {
    f.submit('a', [] {});
    f.pool.drain();
  }
  CHECK(f.pool.threads() == 1);
}

TEST_CASE("ThreadPool: jobs start in order", "[pool]") {
  test::Watchdog watchdog("pool order", 60s);
  Fixture f({.most_threads = 1});
  std::string log;
  for (const char name : {'a', 'b', 'c', 'd'}) f.submit(name, [&log, name] { log += name; });
  f.pool.drain();
  CHECK(log == "abcd");
  f.poll_until_replies(4);
  CHECK(f.replies == "a+b+c+d+");
}

TEST_CASE("ThreadPool: runs as many at once as it may, and not more", "[pool]") {
  test::Watchdog watchdog("pool bound", 60s);
  constexpr unsigned kThreads = 3;
  Fixture f({.most_threads = kThreads});
  std::vector<Held> held(kThreads);
  for (Held& h : held) f.submit('h', h.work());
  for (Held& h : held) h.started.wait();  // all at once, or this hangs
  std::atomic<bool> ran = false;
  f.submit('x', [&] { ran = true; });
  CHECK(f.pool.threads() == kThreads);
  CHECK_FALSE(ran);
  held[1].go.set();
  f.poll_until_replies(2);
  CHECK(ran);
  held[0].go.set();
  held[2].go.set();
  f.pool.drain();
  CHECK(f.pool.threads() == kThreads);
}

TEST_CASE("ThreadPool: idle threads end, and a later job starts one anew", "[pool]") {
  test::Watchdog watchdog("idle pool threads", 60s);
  Fixture f({.idle_time = 100us});
  for (int i = 0; i < 3; ++i) {
    Held a;
    Held b;
    f.submit('a', a.work());
    f.submit('b', b.work());
    a.started.wait();
    b.started.wait();
    CHECK(f.pool.threads() == 2);
    a.go.set();
    b.go.set();
    f.pool.drain();
    while (f.pool.threads() != 0) std::this_thread::yield();
  }
}

TEST_CASE("ThreadPool: a job that has not started can be cancelled", "[pool]") {
  test::Watchdog watchdog("pool cancel", 60s);
  Fixture f({.most_threads = 1});
  Held held;
  auto witness = std::make_shared<bool>(false);
  const PoolJobId running = f.submit('r', held.work());
  held.started.wait();
  const PoolJobId waiting = f.submit('w', [witness] { *witness = true; });
  const PoolJobId later = f.submit('l', [] {});
  CHECK(f.pool.cancel(waiting));
  CHECK_FALSE(f.pool.cancel(waiting));
  CHECK_FALSE(f.pool.cancel(running));
  CHECK(witness.use_count() == 1);  // what the work held is let go at once
  f.poll_until_replies(1);
  CHECK(f.replies == "w-");
  held.go.set();
  f.poll_until_replies(3);
  CHECK(f.replies == "w-r+l+");
  CHECK_FALSE(*witness);
  CHECK_FALSE(f.pool.cancel(later));
}

TEST_CASE("ThreadPool: drain waits for what was submitted before, and for nothing else", "[pool]") {
  test::Watchdog watchdog("pool drain", 60s);
  Held first;
  Held later;
  Fixture f({.most_threads = 2});  // goes first: it joins the workers that hold the two
  f.pool.drain();
  f.submit('f', first.work());
  first.started.wait();
  OneShotEvent draining;
  std::atomic<bool> drained = false;
  test::SyncAction at("ThreadPool::drain: counted, not yet waiting", [&] { draining.set(); });
  Thread drainer = MUST(Thread::start("drainer", [&] {
    f.pool.drain();
    drained = true;
  }));
  draining.wait();
  f.submit('l', later.work());
  later.started.wait();
  CHECK_FALSE(drained);
  first.go.set();
  drainer.join();  // hangs if it waits for the later one
  f.context->poll(PollMode::kBlocking);
  CHECK(f.replies == "f+");  // its reply was on its way
  later.go.set();
}

TEST_CASE("ThreadPool: stop cancels what waits and finishes what runs", "[pool]") {
  test::Watchdog watchdog("pool stop", 60s);
  auto context = make_context();
  auto pool = std::make_unique<ThreadPool>(ThreadPool::Limits{.most_threads = 1});
  std::string replies;
  const auto reply = [&replies](char name) {
    return [&replies, name](PoolOutcome o) {
      replies += name;
      replies += o == PoolOutcome::kRan ? '+' : '-';
    };
  };
  Held held;
  bool ran = false;
  MUST(pool->submit(*context, held.work(), reply('r')));
  held.started.wait();
  MUST(pool->submit(*context, [&] { ran = true; }, reply('w')));
  Thread stopper = MUST(Thread::start("stopper", [&] { pool.reset(); }));
  // The waiting one is answered while stop still waits for the running one.
  while (replies.empty()) context->poll(PollMode::kBlocking);
  CHECK(replies == "w-");
  held.go.set();
  stopper.join();
  while (replies.size() < 4) context->poll(PollMode::kBlocking);
  CHECK(replies == "w-r+");
  CHECK_FALSE(ran);
}

TEST_CASE("ThreadPool: replies go to the context that each job names, once each",
          "[pool][stress]") {
  test::Watchdog watchdog("pool replies", 120s);
  constexpr size_t kSubmitters = 4;
  const int jobs = test::sized(500, 50'000);
  std::vector<std::unique_ptr<IOThread>> iothreads;
  for (size_t i = 0; i < 2; ++i) iothreads.push_back(MUST(IOThread::create("io")));
  std::atomic<int> worked = 0;
  std::atomic<int> ran = 0;
  std::atomic<int> cancelled = 0;
  std::atomic<int> lost = 0;
  {
    ThreadPool pool({.most_threads = 3, .idle_time = 50us});
    std::vector<Thread> submitters;
    for (size_t s = 0; s < kSubmitters; ++s) {
      submitters.push_back(MUST(Thread::start("submitter", [&, s] {
        AioContext& home = iothreads[s % 2]->context();
        for (int i = 0; i < jobs; ++i) {
          auto id = pool.submit(
              home, [&] { ++worked; },
              [&](PoolOutcome o) {
                if (!home.is_home()) ++lost;
                ++(o == PoolOutcome::kRan ? ran : cancelled);
                test::Watchdog::feed();
              });
          if (!id.has_value()) ++lost;
          if (i % 5 == 0 && id.has_value()) pool.cancel(*id);
        }
      })));
    }
    submitters.clear();
    pool.drain();
    CHECK(worked + cancelled <= static_cast<int>(kSubmitters) * jobs);
  }
  iothreads.clear();  // runs the replies that are on their way
  CHECK(lost == 0);
  CHECK(ran == worked);
  CHECK(ran + cancelled == static_cast<int>(kSubmitters) * jobs);
}

TEST_CASE("ThreadPool: a host that gives no thread is an error, not a lost job", "[pool]") {
  // TSan ends a process that starts a thread after a fork, before the host can refuse it.
  if (test::kTsan) return;
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    auto context = make_context();
    ThreadPool pool({});
    ::setrlimit(RLIMIT_NPROC, &none);
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);  // the limit is not for root
    bool called = false;
    const auto result =
        pool.submit(*context, [&] { called = true; }, [&](PoolOutcome) { called = true; });
    context->poll(PollMode::kNonBlocking);
    const bool right = !result.has_value() && result.error().kind() == ErrorKind::kResource;
    ::_exit(right && !called ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("ThreadPool: misuse aborts", "[pool][death]") {
  auto context = make_context();
  CHECK(test::dies([] { ThreadPool pool({.most_threads = 0}); }));
  CHECK(test::dies([&] {
    ThreadPool pool({});
    pool.stop();
    static_cast<void>(pool.submit(*context, [] {}, [](PoolOutcome) {}));
  }));
  RcuThread registration;
  CHECK(test::dies([&] {
    ThreadPool pool({});
    RcuReadGuard section;
    pool.drain();
  }));
}
