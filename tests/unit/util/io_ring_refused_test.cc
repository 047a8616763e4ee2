// Hosts that refuse io_uring, all of it or for a while.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/child.h"
#include "tests/support/syscall_filter.h"
#include "tests/support/watchdog.h"
#include "tests/support/without_io_ring.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/io_ring.h"
#include "util/main_loop.h"
#include "util/thread.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<AioContext> make_context() { return MUST(AioContext::create("test")); }

/// What a context says on a thread where `number` fails with `error`; empty if it has a ring.
std::string refusal_when(unsigned number, int error) {
  std::string refusal;
  MUST(Thread::start("filtered", [&] {
    test::forbid_syscall(number, error);
    auto context = make_context();
    const bool refused = context->io_ring() == nullptr && context->io_ring() == nullptr;
    refusal = refused ? context->io_ring_refusal() : "";
    context->post([&] { refusal += "."; });  // the loop goes on without one
    context->poll(PollMode::kBlocking);
  }));
  return refusal;
}

/// Requests on a thread whose kernel takes none while `kernel.set_failing(true)` holds.
struct Requests {
  explicit Requests(test::FailingSyscall& k) : kernel(k) { kernel.apply(); }
  void start(int count) {
    for (int i = 0; i < count; ++i) {
      MUST(start_here(*context, [this, i](Co& co) {
        const int32_t result = ring.co_nop(co);
        (result == 0 ? done : cancelled).push_back(i);
      }));
    }
  }

  test::FailingSyscall& kernel;
  std::unique_ptr<AioContext> context = make_context();
  IoRing& ring = *context->io_ring();
  std::vector<int> done;
  std::vector<int> cancelled;
};

/// Runs `body(kernel)` on a thread of its own.
template <class F>
void with_moody_kernel(F body) {
  test::FailingSyscall kernel(__NR_io_uring_enter, EAGAIN);
  MUST(Thread::start("filtered", [&] { body(kernel); }));
}

}  // namespace

TEST_CASE("IoRing: a refused ring is null, with the reason, and the loop goes on", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  CHECK(refusal_when(__NR_io_uring_setup, EPERM) ==
        "a system call filter refuses io_uring: Operation not permitted.");
  CHECK(refusal_when(__NR_io_uring_enter, EPERM) ==
        "a system call filter refuses io_uring: Operation not permitted.");
  CHECK_THAT(refusal_when(__NR_io_uring_setup, ENOSYS),
             Catch::Contains("the kernel has no io_uring"));
  CHECK_THAT(refusal_when(__NR_io_uring_setup, ENOMEM), Catch::Contains("RLIMIT_MEMLOCK"));
  CHECK_THAT(refusal_when(__NR_io_uring_setup, EMFILE), Catch::StartsWith("io_uring_setup: "));
}

TEST_CASE("IoRing: without a table of files every file goes by its descriptor", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  std::optional<RingFile> file;
  MUST(Thread::start("filtered", [&] {
    test::forbid_syscall(__NR_io_uring_register, EPERM);
    auto context = make_context();
    file = MUST(context->io_ring()->register_file(STDIN_FILENO));
    context->io_ring()->unregister_file(*file);
  }));
  CHECK(file->kind == RingFile::Kind::kDescriptor);
  CHECK(file->number == STDIN_FILENO);
}

TEST_CASE("IoRing: requests that the kernel does not take wait, in order; the loop goes on",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("a kernel that takes no requests", 60s);
  constexpr int kMany = 300;  // more than the submission queue holds
  std::vector<int> done;
  IoRing::Counters refused;
  IoRing::Counters at_end;
  Nanoseconds refused_for{};
  with_moody_kernel([&](test::FailingSyscall& kernel) {
    Requests requests(kernel);
    kernel.set_failing(true);
    const HostClock clock;
    const Nanoseconds start = clock.now();
    bool takes_again = false;
    Timer timer(requests.context->timers(), [&] {
      refused_for = clock.now() - start;
      refused = requests.ring.counters();
      takes_again = true;
      kernel.set_failing(false);
    });
    timer.arm_after(10ms);
    requests.start(kMany);
    while (!takes_again) requests.context->poll(PollMode::kBlocking);
    while (requests.ring.in_flight() > 0) requests.context->poll(PollMode::kBlocking);
    while (requests.context->poll(PollMode::kNonBlocking)) {
    }
    at_end = requests.ring.counters();
    done = requests.done;
  });
  CHECK(done.size() == kMany);
  CHECK(std::ranges::is_sorted(done));
  CHECK(refused.queued > 0);
  CHECK(at_end.queued == refused.queued);
  CHECK(at_end.requests == kMany);
  // It left the kernel alone in between: some tries each millisecond, not as many as it can.
  CHECK(refused.enters <= 4 * static_cast<uint64_t>(refused_for / 1ms + 2));
}

TEST_CASE("IoRing: what waits for room is cancelled at once", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("cancellation of what waits", 60s);
  std::vector<int> cancelled;
  std::vector<int> done;
  uint64_t queued = 0;
  with_moody_kernel([&](test::FailingSyscall& kernel) {
    Requests requests(kernel);
    kernel.set_failing(true);
    requests.start(200);
    requests.ring.cancel_all();
    requests.context->poll(PollMode::kNonBlocking);
    cancelled = requests.cancelled;
    queued = requests.ring.counters().queued;
    kernel.set_failing(false);
    while (requests.ring.in_flight() > 0) requests.context->poll(PollMode::kBlocking);
    while (requests.context->poll(PollMode::kNonBlocking)) {
    }
    done = requests.done;
  });
  CHECK(queued > 0);
  CHECK(cancelled.size() == queued);
  CHECK(done.size() == 200 - queued);
}

TEST_CASE("MainLoop: offers requests again that the kernel did not take", "[main_loop][io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("main loop and a kernel that takes no requests", 60s);
  int32_t result = -1;
  with_moody_kernel([&](test::FailingSyscall& kernel) {
    kernel.apply();
    auto loop = MUST(MainLoop::create());
    BqlGuard guard;
    IoRing& ring = *loop->block().io_ring();
    kernel.set_failing(true);
    bool ended = false;
    MUST(start_here(loop->block(), [&](Co& co) {
      result = ring.co_nop(co);
      ended = true;
    }));
    loop->turn();
    loop->turn();
    kernel.set_failing(false);
    while (!ended) loop->turn();  // nothing but its own retry wakes it
  });
  CHECK(result == 0);
}

TEST_CASE("IoRing: where the host refuses it, its tests are skipped with the reason",
          "[no_io_ring]") {
  const auto result = test::run_hidden_test(
      "[io_ring]", 60s, [] { test::forbid_syscall(__NR_io_uring_setup, EPERM); });
  INFO(result.output);
  CHECK(result.passed());
  CHECK(result.says("SKIP: no io_uring here: "));
}
