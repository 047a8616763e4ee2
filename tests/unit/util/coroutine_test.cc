#include "util/coroutine.h"

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "tests/support/death.h"
#include "tests/support/size.h"
#include "util/co_sync.h"
#include "util/internal/coroutine_stack.h"
#include "util/mutex.h"
#include "util/rcu.h"
#include "util/thread.h"

using namespace rhea;

namespace {

/// An executor that runs what is queued when the test says so.
class ManualExecutor final : public Executor {
 public:
  void resume_later(Resumable& resumable) override { queue_.push_back(&resumable); }
  void run_all() {
    while (!queue_.empty()) {
      Resumable* next = queue_.front();
      queue_.pop_front();
      next->resume();
    }
  }

 private:
  std::deque<Resumable*> queue_;
};

/// An executor with a thread of its own.
class ThreadExecutor final : public Executor {
 public:
  ThreadExecutor() : thread_(MUST(Thread::start("executor", [this] { loop(); }))) {}
  ~ThreadExecutor() override {
    {
      MutexLock lock(mutex_);
      stop_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  void resume_later(Resumable& resumable) override {
    MutexLock lock(mutex_);
    queue_.push_back(&resumable);
    changed_.notify_all();
  }

 private:
  Resumable* next() {
    MutexLock lock(mutex_);
    while (queue_.empty() && !stop_) changed_.wait(mutex_);
    if (queue_.empty()) return nullptr;
    Resumable* first = queue_.front();
    queue_.pop_front();
    return first;
  }
  void loop() {
    while (Resumable* resumable = next()) resumable->resume();
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<Resumable*> queue_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  Thread thread_;
};

/// Counts down to an event that a thread can wait for.
class Countdown {
 public:
  explicit Countdown(int count) : count_(count) {}
  void done() {
    MutexLock lock(mutex_);
    if (--count_ == 0) zero_.notify_all();
  }
  void wait() {
    MutexLock lock(mutex_);
    while (count_ > 0) zero_.wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar zero_;
  int count_ GUARDED_BY(mutex_);
};

}  // namespace

TEST_CASE("Coroutine: runs until it yields, and goes on when it is woken", "[coroutine]") {
  ManualExecutor executor;
  std::string trace;
  Coroutine* suspended = nullptr;
  REQUIRE(spawn(executor, [&](Co& co) {
    trace += 'a';
    suspended = &co.coroutine();
    co.yield();
    trace += 'c';
  }));
  CHECK(trace.empty());
  executor.run_all();
  trace += 'b';
  suspended->wake();
  CHECK(trace == "ab");
  executor.run_all();
  CHECK(trace == "abc");
}

TEST_CASE("Coroutine: start_here runs at once, up to the first suspension", "[coroutine]") {
  ManualExecutor executor;
  std::string trace;
  CHECK_FALSE(in_coroutine());
  REQUIRE(start_here(executor, [&](Co& co) {
    trace += in_coroutine() ? 'a' : '!';
    co.reschedule();
    trace += 'c';
  }));
  trace += in_coroutine() ? '!' : 'b';
  executor.run_all();
  CHECK(trace == "abc");
}

TEST_CASE("Coroutine: its closure dies on its own stack when it ends", "[coroutine]") {
  ManualExecutor executor;
  auto token = std::make_shared<int>(7);
  int seen = 0;
  REQUIRE(spawn(executor, [token, &seen](Co& co) {
    co.reschedule();
    seen = *token;
  }));
  CHECK(token.use_count() == 2);
  executor.run_all();
  CHECK(seen == 7);
  CHECK(token.use_count() == 1);
}

TEST_CASE("Coroutine: its section depth is its own, starts at 0 and survives a yield",
          "[coroutine]") {
  ManualExecutor executor;
  CHECK(executor.aio() == nullptr);
  std::vector<uint32_t> seen;
  for (int i = 0; i < 2; ++i) {
    MUST(start_here(executor, [&](Co& co) {
      seen.push_back(co.section_depth());
      ++co.section_depth();
      co.reschedule();
      seen.push_back(co.section_depth());
    }));
  }
  executor.run_all();
  CHECK(seen == std::vector<uint32_t>{0, 0, 1, 1});
}

TEST_CASE("Coroutine: one started inside another returns to it", "[coroutine]") {
  ManualExecutor executor;
  std::string trace;
  REQUIRE(start_here(executor, [&](Co&) {
    trace += '1';
    static_cast<void>(start_here(executor, [&](Co& inner) {
      trace += '2';
      inner.reschedule();
      trace += '4';
    }));
    trace += '3';
  }));
  executor.run_all();
  CHECK(trace == "1234");
}

TEST_CASE("Coroutine: locals survive many suspensions, and stacks are reused", "[coroutine]") {
  ManualExecutor executor;
  constexpr int kRounds = 200;
  constexpr int kAtOnce = 100;
  int sum = 0;
  const auto body = [&sum](Co& co) {
    std::array<char, 2000> local{};
    for (int i = 0; i < 10; ++i) {
      std::memset(local.data(), i, local.size());
      co.reschedule();
      for (const char c : local) sum += c == i ? 0 : 1;
    }
  };
  const auto run_round = [&] {
    for (int i = 0; i < kAtOnce; ++i) REQUIRE(spawn(executor, body));
    executor.run_all();
  };
  run_round();
  const size_t made = internal::stacks_made();
  for (int round = 1; round < kRounds; ++round) run_round();
  CHECK(sum == 0);
  CHECK(internal::stacks_made() == made);
}

TEST_CASE("Coroutine: over the cap, spawn fails and says so", "[coroutine]") {
  ManualExecutor executor;
  std::vector<Coroutine*> parked;
  Result<void> result = ok();
  while (result) {
    result = start_here(executor, [&](Co& co) {
      parked.push_back(&co.coroutine());
      co.yield();
    });
  }
  CHECK(parked.size() + 1 >= internal::kMaxStacks - internal::kStacksPerThread);
  CHECK(result.error().kind() == ErrorKind::kResource);
  for (Coroutine* coroutine : parked) coroutine->wake();
  executor.run_all();
}

TEST_CASE("Coroutine: move_to hops between threads and keeps its locals", "[coroutine]") {
  RcuThread self;
  const int hops = test::sized(2'000, 200'000);
  constexpr int kCoroutines = 8;
  ThreadExecutor a;
  ThreadExecutor b;
  Countdown ended(kCoroutines);
  std::atomic<int> wrong = 0;
  for (int i = 0; i < kCoroutines; ++i) {
    REQUIRE(spawn(a, [&](Co& co) {
      std::vector<int> local;
      for (int hop = 0; hop < hops; ++hop) {
        Executor& next = hop % 2 == 0 ? static_cast<Executor&>(b) : a;
        co.move_to(next);
        if (&co.executor() != &next) wrong.fetch_add(1);
        if (local.size() < 100) local.push_back(hop);
        for (size_t k = 0; k < local.size(); ++k) {
          if (local[k] != static_cast<int>(k)) wrong.fetch_add(1);
        }
      }
      ended.done();
    }));
  }
  ended.wait();
  CHECK(wrong == 0);
}

TEST_CASE("CoMutex: first come, first served, across suspensions", "[coroutine]") {
  ManualExecutor executor;
  CoMutex mutex;
  std::string trace;
  for (const char name : {'a', 'b', 'c'}) {
    REQUIRE(spawn(executor, [&, name](Co& co) {
      CoMutexLock lock(co, mutex);
      trace += name;
      co.reschedule();
      trace += name;
    }));
  }
  executor.run_all();
  CHECK(trace == "aabbcc");
}

TEST_CASE("CoMutex: excludes coroutines of different threads", "[coroutine][stress]") {
  RcuThread self;
  const int rounds = test::sized(2'000, 100'000);
  constexpr int kEach = 4;
  ThreadExecutor a;
  ThreadExecutor b;
  CoMutex mutex;
  Countdown ended(2 * kEach);
  int64_t plain = 0;  // not atomic: a missed exclusion is a race that TSan reports
  for (int i = 0; i < 2 * kEach; ++i) {
    REQUIRE(spawn(i % 2 == 0 ? static_cast<Executor&>(a) : b, [&](Co& co) {
      for (int round = 0; round < rounds; ++round) {
        CoMutexLock lock(co, mutex);
        const int64_t before = plain;
        if (round % 8 == 0) co.reschedule();
        plain = before + 1;
      }
      ended.done();
    }));
  }
  ended.wait();
  CHECK(plain == int64_t{2} * kEach * rounds);
}

TEST_CASE("CoQueue: a producer and consumers on different threads miss nothing", "[coroutine]") {
  RcuThread self;
  const int items = test::sized(5'000, 500'000);
  ThreadExecutor a;
  ThreadExecutor b;
  CoMutex mutex;
  CoQueue filled;
  std::deque<int> queue;
  int64_t consumed = 0;
  bool over = false;
  Countdown ended(3);
  const auto consumer = [&](Co& co) {
    {
      CoMutexLock lock(co, mutex);
      while (true) {
        while (queue.empty() && !over) filled.wait(co, mutex);
        if (queue.empty()) break;
        consumed += queue.front();
        queue.pop_front();
      }
    }
    ended.done();
  };
  REQUIRE(spawn(a, consumer));
  REQUIRE(spawn(b, consumer));
  REQUIRE(spawn(a, [&](Co& co) {
    for (int i = 1; i <= items; ++i) {
      CoMutexLock lock(co, mutex);
      queue.push_back(i);
      filled.wake_one();
    }
    {
      CoMutexLock lock(co, mutex);
      over = true;
      filled.wake_all();
    }
    ended.done();
  }));
  ended.wait();
  CHECK(consumed == int64_t{items} * (items + 1) / 2);
}

TEST_CASE("CoQueue: wake_all wakes those who wait now, also if they wait again", "[coroutine]") {
  ManualExecutor executor;
  CoQueue queue;
  int wakes = 0;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(spawn(executor, [&](Co& co) {
      for (int k = 0; k < 2; ++k) {
        queue.wait(co);
        ++wakes;
      }
    }));
  }
  executor.run_all();
  queue.wake_all();
  executor.run_all();
  CHECK(wakes == 3);
  queue.wake_all();
  executor.run_all();
  CHECK(wakes == 6);
  CHECK(queue.empty());
}

TEST_CASE("Coroutine: a yield with a lock held or in a read section aborts", "[coroutine][death]") {
  CHECK(test::dies([] {
    ManualExecutor executor;
    Mutex mutex;
    static_cast<void>(start_here(executor, [&](Co& co) {
      MutexLock lock(mutex);
      co.yield();
    }));
  }));
  CHECK(test::dies([] {
    RcuThread self;
    ManualExecutor executor;
    static_cast<void>(start_here(executor, [](Co& co) {
      RcuReadGuard guard;
      co.yield();
    }));
  }));
  CHECK(test::dies([] {
    RcuThread self;
    ManualExecutor executor;
    RcuReadGuard guard;
    static_cast<void>(start_here(executor, [](Co&) {}));
  }));
}

TEST_CASE("Coroutine: a CoMutex locked twice or unlocked by a stranger aborts",
          "[coroutine][death]") {
  CHECK(test::dies([] {
    ManualExecutor executor;
    CoMutex mutex;
    // Unchecked: what the analysis refuses is what must abort.
    static_cast<void>(start_here(executor, [&](Co& co) NO_THREAD_SAFETY_ANALYSIS {
      mutex.lock(co);
      mutex.lock(co);
    }));
  }));
  CHECK(test::dies([] {
    ManualExecutor executor;
    CoMutex mutex;
    // Unchecked: as above.
    static_cast<void>(
        start_here(executor, [&](Co& co) NO_THREAD_SAFETY_ANALYSIS { mutex.unlock(co); }));
  }));
}

TEST_CASE("Coroutine: the guard page stops an overflow", "[coroutine][death]") {
  // A fault, not an abort: the child dies of SIGSEGV.
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    std::signal(SIGSEGV, SIG_DFL);
    ManualExecutor executor;
    static_cast<void>(start_here(executor, [](Co&) {
      volatile char* low = static_cast<char*>(__builtin_frame_address(0));
      low[-static_cast<ptrdiff_t>(internal::kStackBytes)] = 1;
    }));
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
}
