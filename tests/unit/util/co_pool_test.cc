#include "util/co_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/sanitizer.h"
#include "tests/support/watchdog.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/one_shot_event.h"
#include "util/thread.h"
#include "util/thread_pool.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<AioContext> make_context() { return MUST(AioContext::create("test")); }

struct Fixture {
  test::Watchdog watchdog{"coroutines and the pool", 60s};
  std::unique_ptr<AioContext> context = make_context();
  ThreadPool pool{ThreadPool::Limits{}};
  int done = 0;

  void poll_until(int count) {
    while (done < count) context->poll(PollMode::kBlocking);
  }
};

}  // namespace

TEST_CASE("co_run_on_pool: work runs on a worker, its value comes home", "[co_pool]") {
  Fixture f;
  std::thread::id worker;
  bool at_home = false;
  Result<std::string> value = fail(ErrorKind::kBusy, "not yet");
  Result<void> nothing = fail(ErrorKind::kBusy, "not yet");
  MUST(start_here(*f.context, [&](Co& co) {
    value = co_run_on_pool(co, f.pool, [&] {
      worker = std::this_thread::get_id();
      return std::string("value");
    });
    at_home = f.context->is_home();
    nothing = co_run_on_pool(co, f.pool, [] {});
    ++f.done;
  }));
  CHECK(f.done == 0);
  f.poll_until(1);
  CHECK(MUST(std::move(value)) == "value");
  CHECK(nothing.has_value());
  CHECK(worker != std::this_thread::get_id());
  CHECK(at_home);
}

TEST_CASE("co_run_on_pool: work may move its result and change what it captured", "[co_pool]") {
  Fixture f;
  std::unique_ptr<int> result;
  MUST(start_here(*f.context, [&](Co& co) {
    auto work = [n = 0]() mutable { return std::make_unique<int>(++n); };
    MUST(co_run_on_pool(co, f.pool, work));
    result = MUST(co_run_on_pool(co, f.pool, work));
    ++f.done;
  }));
  f.poll_until(1);
  CHECK(*result == 2);
}

TEST_CASE("co_run_on_pool: many coroutines block side by side", "[co_pool]") {
  Fixture f;
  std::atomic<int> inside = 0;
  constexpr int kMany = 16;
  for (int i = 0; i < kMany; ++i) {
    MUST(start_here(*f.context, [&](Co& co) {
      MUST(co_run_on_pool(co, f.pool, [&] {
        ++inside;
        while (inside < kMany) std::this_thread::yield();  // each waits for all the others
      }));
      ++f.done;
    }));
  }
  f.poll_until(kMany);
  CHECK(inside == kMany);
}

TEST_CASE("co_run_on_pool: work that a stopped pool never began says so", "[co_pool]") {
  Fixture f;
  ThreadPool pool({.most_threads = 1});
  OneShotEvent started;
  OneShotEvent go_on;
  std::vector<std::string> log;
  const auto note = [&](const char* name, const Result<void>& result) {
    log.push_back(std::string(name) + (result.has_value() ? " ran" : " did not"));
    if (!result.has_value()) CHECK(result.error().kind() == ErrorKind::kCancelled);
    ++f.done;
  };
  MUST(start_here(*f.context, [&](Co& co) {
    note("first", co_run_on_pool(co, pool, [&] {
           started.set();
           go_on.wait();
         }));
  }));
  MUST(start_here(*f.context, [&](Co& co) { note("second", co_run_on_pool(co, pool, [] {})); }));
  started.wait();  // the only worker is taken
  Thread stopper = MUST(Thread::start("stopper", [&] { pool.stop(); }));
  f.poll_until(1);
  go_on.set();
  f.poll_until(2);
  stopper.join();
  CHECK(log == std::vector<std::string>{"second did not", "first ran"});
}

TEST_CASE("co_run_on_pool: a host that gives no thread is an error", "[co_pool]") {
  // TSan ends a process that starts a thread after a fork, before the host can refuse it.
  if (test::kTsan) return;
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    auto context = MUST(AioContext::create("test"));
    ThreadPool pool({});
    ::setrlimit(RLIMIT_NPROC, &none);
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);  // the limit is not for root
    bool ran = false;
    bool right = false;
    MUST(start_here(*context, [&](Co& co) {
      const auto result = co_run_on_pool(co, pool, [&] { ran = true; });
      right = !result.has_value() && result.error().kind() == ErrorKind::kResource;
    }));
    ::_exit(right && !ran ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
