#include "util/io_ring.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/busy_ring.h"
#include "tests/support/death.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"
#include "tests/support/without_io_ring.h"
#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_thread.h"
#include "util/one_shot_event.h"
#include "util/thread.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr RingFile::Kind kDescriptor = RingFile::Kind::kDescriptor;
constexpr RingFile::Kind kSlot = RingFile::Kind::kSlot;

std::unique_ptr<AioContext> make_context() { return MUST(AioContext::create("test")); }

/// Runs `body` in a coroutine of `context`, to its end.
template <class F>
void run(AioContext& context, F body) {
  bool done = false;
  MUST(start_here(context, [&](Co& co) {
    body(co);
    done = true;
  }));
  while (!done) context.poll(PollMode::kBlocking);
}

iovec part(std::string& text) { return {text.data(), text.size()}; }

/// A context with its ring and an empty file.
struct Fixture {
  std::unique_ptr<AioContext> context = make_context();
  IoRing& ring = *context->io_ring();
  test::TempDir dir;
  const Fd fd{::open(dir.file("disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  const RingFile plain{.number = fd.get()};

  int32_t write(Co& co, RingFile file, std::string text, uint64_t offset) {
    const iovec iov = part(text);
    return ring.co_writev(co, file, {&iov, 1}, offset, 0);
  }
  std::string read(Co& co, RingFile file, size_t length, uint64_t offset) {
    std::string text(length, '?');
    const iovec iov = part(text);
    const int32_t n = ring.co_readv(co, file, {&iov, 1}, offset);
    return n < 0 ? "errno " + std::to_string(-n) : text.substr(0, static_cast<size_t>(n));
  }
};

}  // namespace

// --- Files ---

TEST_CASE("IoRing: what is written is read back, by descriptor and by slot", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  const RingFile file =
      GENERATE(kDescriptor, kSlot) == kSlot ? MUST(f.ring.register_file(f.fd.get())) : f.plain;
  run(*f.context, [&](Co& co) {
    CHECK(f.write(co, file, "disk", 4096) == 4);
    CHECK(f.read(co, file, 4, 4096) == "disk");
    CHECK(f.read(co, file, 4, 4094) == std::string("\0\0di", 4));
    CHECK(f.read(co, file, 8, 4098) == "sk");  // short at the end
    CHECK(f.read(co, file, 8, 9000).empty());
    CHECK(f.ring.co_fsync(co, file, FsyncKind::kAll) == 0);
    CHECK(f.ring.co_fsync(co, file, FsyncKind::kDataOnly) == 0);
  });
  f.ring.unregister_file(file);
}

TEST_CASE("IoRing: several parts are written and read in their order", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  run(*f.context, [&](Co& co) {
    std::string a = "one";
    std::string b = "two";
    const std::array<iovec, 2> out{part(a), part(b)};
    CHECK(f.ring.co_writev(co, f.plain, out, 1, RWF_DSYNC) == 6);
    const std::array<iovec, 2> in{part(b), part(a)};
    CHECK(f.ring.co_readv(co, f.plain, in, 1) == 6);
    CHECK(b + a == "onetwo");
    const std::vector<iovec> too_many(IOV_MAX + 1, part(a));
    CHECK(f.ring.co_readv(co, f.plain, too_many, 0) == -EINVAL);
    CHECK(f.ring.co_writev(co, f.plain, too_many, 0, 0) == -EINVAL);
    CHECK(f.ring.co_readv(co, f.plain, {}, 0) == 0);
  });
}

TEST_CASE("IoRing: fallocate makes room and holes", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  run(*f.context, [&](Co& co) {
    CHECK(f.ring.co_fallocate(co, f.plain, 0, 0, 16384) == 0);
    CHECK(::lseek(f.fd.get(), 0, SEEK_END) == 16384);
    CHECK(f.write(co, f.plain, "xxxx", 4096) == 4);
    const int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    CHECK(f.ring.co_fallocate(co, f.plain, hole, 4096, 4096) == 0);
    CHECK(f.read(co, f.plain, 4, 4096) == std::string(4, '\0'));
    CHECK(f.ring.co_fallocate(co, f.plain, 0, uint64_t{1} << 63, 1) == -EINVAL);
  });
}

TEST_CASE("IoRing: a failure is -errno", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  const Fd read_only(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  run(*f.context, [&](Co& co) {
    CHECK(f.write(co, {.number = read_only.get()}, "x", 0) == -EBADF);
    CHECK(f.write(co, {.number = 0, .kind = kSlot}, "x", 0) == -EBADF);
    CHECK(f.ring.co_fallocate(co, f.plain, 0x4000'0000, 0, 1) == -EOPNOTSUPP);
  });
  CHECK_FALSE(f.ring.register_file(1'000'000).has_value());
}

TEST_CASE("IoRing: when its table is full, files go by their descriptor", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  std::vector<RingFile> files;
  for (int i = 0; i < 66; ++i) files.push_back(MUST(f.ring.register_file(f.fd.get())));
  CHECK(files[63].kind == kSlot);
  CHECK(files[64].kind == kDescriptor);
  CHECK(files[65].number == f.fd.get());
  run(*f.context, [&](Co& co) { CHECK(f.write(co, files[65], "x", 0) == 1); });
  f.ring.unregister_file(files[7]);
  const RingFile again = MUST(f.ring.register_file(f.fd.get()));
  CHECK(again.kind == kSlot);
  CHECK(again.number == files[7].number);
  files[7] = again;
  for (const RingFile& file : files) f.ring.unregister_file(file);
}

// --- Batching and limits ---

TEST_CASE("IoRing: what one turn queues is submitted by the call that sleeps", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  int done = 0;
  f.context->post([&] {
    for (int i = 0; i < 32; ++i) {
      MUST(start_here(*f.context, [&](Co& co) { done += f.ring.co_nop(co) == 0 ? 1 : 0; }));
    }
  });
  f.context->poll(PollMode::kBlocking);
  CHECK(f.ring.counters().enters == 0);
  CHECK(f.ring.in_flight() == 32);
  f.context->poll(PollMode::kBlocking);
  CHECK(f.ring.counters().enters == 1);
  CHECK(f.ring.counters().requests == 32);
  CHECK(done == 32);
}

TEST_CASE("IoRing: many writes at once all reach the file", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  constexpr uint64_t kMany = 500;
  uint64_t done = 0;
  for (uint64_t i = 0; i < kMany; ++i) {
    MUST(start_here(*f.context, [&, i](Co& co) {
      const std::string text(512, static_cast<char>('a' + i % 26));
      if (f.write(co, f.plain, text, i * 512) == 512) ++done;
    }));
  }
  while (f.ring.in_flight() > 0) f.context->poll(PollMode::kBlocking);
  while (f.context->poll(PollMode::kNonBlocking)) {
  }
  CHECK(done == kMany);
  std::string back(kMany * 512, '?');
  REQUIRE(::pread(f.fd.get(), back.data(), back.size(), 0) == static_cast<ssize_t>(back.size()));
  for (uint64_t i = 0; i < kMany; ++i) {
    CHECK(back.compare(i * 512, 512, std::string(512, static_cast<char>('a' + i % 26))) == 0);
  }
}

TEST_CASE("IoRing: more requests than the ring has room for all complete", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  constexpr int kMany = 1500;  // more than the kernel is given at once
  std::vector<int> order;
  f.context->post([&] {
    for (int i = 0; i < kMany; ++i) {
      MUST(start_here(*f.context, [&, i](Co& co) {
        if (f.ring.co_nop(co) == 0) order.push_back(i);
      }));
    }
  });
  while (order.size() < kMany) f.context->poll(PollMode::kBlocking);
  CHECK(std::ranges::is_sorted(order));
  CHECK(f.ring.in_flight() == 0);
  CHECK(f.ring.counters().requests == kMany);
  CHECK(f.ring.counters().queued == kMany - 1000);
}

TEST_CASE("IoRing: a poll that does not block submits and collects", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  bool done = false;
  MUST(start_here(*f.context, [&](Co& co) { done = f.ring.co_nop(co) == 0; }));
  CHECK(f.context->poll(PollMode::kNonBlocking));
  CHECK(done);
  CHECK(f.ring.counters().enters == 1);
  CHECK_FALSE(f.context->poll(PollMode::kNonBlocking));
}

TEST_CASE("IoRing: busy-polling sees a completion without a sleep", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("busy-polling with a ring", 60s);
  Fixture f;
  f.context->set_busy_poll({.longest = 30s, .grow = 10'000'000});
  test::BusyRing busy(*f.context);
  Timer timer(f.context->timers(), [] {});
  for (int i = 0; i < 2;
       ++i) {  // two waits that a longer look would have caught: it looks long now
    timer.arm_after(1ms);
    while (timer.armed()) f.context->poll(PollMode::kBlocking);
  }
  int sleeps = 0;
  const test::SyncAction action("AioContext::poll: announced, not yet looked", [&] { ++sleeps; });
  Thread other = MUST(Thread::start("other", [&] { busy.finish(); }));
  while (!busy.done()) f.context->poll(PollMode::kBlocking);
  CHECK(busy.result() == 1);
  CHECK(sleeps == 0);
}

// --- Sleeping in the ring ---

TEST_CASE("IoRing: a bottom half from another thread wakes a sleep in the ring", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("wake-up of a sleep in the ring", 60s);
  Fixture f;
  test::BusyRing busy(*f.context);
  const char* point = GENERATE("AioContext::poll: announced, not yet looked",
                               "AioContext::poll: looked, not yet asleep");
  int runs = 0;
  Bh bh(*f.context, [&] { ++runs; });
  {
    const test::SyncAction action(point,
                                  [&] { MUST(Thread::start("other", [&] { bh.schedule(); })); });
    while (runs == 0) f.context->poll(PollMode::kBlocking);
  }
  CHECK(runs >= 1);
  CHECK_FALSE(busy.done());
}

TEST_CASE("IoRing: no wake-up is lost between two threads, with I/O in flight", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("ping-pong through a sleep in the ring", 120s);
  auto thread = MUST(IOThread::create("ring"));
  AioContext& there = thread->context();
  auto here = make_context();
  const int rounds = test::sized(5'000, 200'000);
  std::optional<test::BusyRing> theirs;
  OneShotEvent ready;
  there.post([&] {
    theirs.emplace(there);
    ready.set();
  });
  ready.wait();
  test::BusyRing ours(*here);
  int pings = 0;
  int pongs = 0;
  Bh pong(*here, [&] { ++pongs; });
  Bh ping(there, [&] {
    ++pings;
    pong.schedule();
  });
  for (int i = 1; i <= rounds; ++i) {
    ping.schedule();
    while (pongs < i) here->poll(PollMode::kBlocking);
    test::Watchdog::feed();
  }
  CHECK(pings == rounds);
  there.post([&] { theirs.reset(); });
  thread.reset();
}

TEST_CASE("IoRing: timers fire on time while I/O is in flight", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("timers with I/O in flight", 60s);
  Fixture f;
  test::BusyRing busy(*f.context);
  int fired = 0;
  Timer timer(f.context->timers(), [&] { ++fired; });
  const HostClock clock;
  const Nanoseconds start = clock.now();
  timer.arm_after(3ms);
  while (fired == 0) f.context->poll(PollMode::kBlocking);
  CHECK(clock.now() - start >= 3ms);
  // It slept, did not spin: a few calls, not thousands.
  CHECK(f.ring.counters().enters < 10);
}

TEST_CASE("IoRing: a descriptor that stays ready is reported every turn", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("level-triggered with I/O in flight", 60s);
  Fixture f;
  test::BusyRing busy(*f.context);
  const Fd fd = MUST(make_eventfd());
  int calls = 0;
  const FdWatch watch =
      MUST(f.context->watch(fd.get(), FdEvents::kRead, [&](FdEvents) { ++calls; }));
  signal_eventfd(fd.get());  // and never cleared
  for (int i = 1; i <= 5; ++i) {
    f.context->poll(PollMode::kBlocking);
    if (calls < i) f.context->poll(PollMode::kBlocking);
    CHECK(calls == i);
  }
}

TEST_CASE("IoRing: a completion wakes a sleeping context", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("completion wakes", 60s);
  Fixture f;
  test::BusyRing busy(*f.context);
  const test::SyncAction action("AioContext::poll: looked, not yet asleep",
                                [&] { MUST(Thread::start("other", [&] { busy.finish(); })); });
  f.context->poll(PollMode::kBlocking);
  while (!busy.done()) f.context->poll(PollMode::kBlocking);
  CHECK(busy.result() == 1);
}

TEST_CASE("IoRing: a nested poll in a handler sees a request through", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("nested poll with a ring", 60s);
  Fixture f;
  std::string log;
  f.context->post([&] {
    bool done = false;
    MUST(start_here(*f.context, [&](Co& co) {
      CHECK(f.write(co, f.plain, "nested", 0) == 6);
      CHECK(f.ring.co_fsync(co, f.plain, FsyncKind::kAll) == 0);
      done = true;
    }));
    while (!done) f.context->poll(PollMode::kBlocking);
    log += 'n';
  });
  f.context->poll(PollMode::kBlocking);
  CHECK(log == "n");
}

// --- Cancellation ---

TEST_CASE("IoRing: a request that would never complete can be cancelled", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("cancellation", 60s);
  Fixture f;
  test::BusyRing one(*f.context);
  test::BusyRing other(*f.context);
  const bool submitted_before = GENERATE(false, true);
  if (submitted_before) f.context->poll(PollMode::kNonBlocking);
  f.ring.cancel_file(one.file());
  while (!one.done()) f.context->poll(PollMode::kBlocking);
  CHECK(one.result() == -ECANCELED);
  CHECK_FALSE(other.done());
  f.ring.cancel_all();
  f.ring.cancel_all();
  while (!other.done()) f.context->poll(PollMode::kBlocking);
  CHECK(other.result() == -ECANCELED);
  CHECK(f.ring.in_flight() == 0);
}

TEST_CASE("IoRing: after a cancellation a new request on the same stack is left alone",
          "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  test::Watchdog watchdog("reuse after cancellation", 60s);
  Fixture f;
  const Pipe pipe = MUST(make_pipe());
  std::vector<int32_t> results;
  MUST(start_here(*f.context, [&](Co& co) {
    for (int i = 0; i < 2; ++i) {
      std::string byte(1, '?');
      const iovec iov = part(byte);
      results.push_back(f.ring.co_readv(co, {.number = pipe.read.get()}, {&iov, 1}, 0));
    }
  }));
  f.context->poll(PollMode::kNonBlocking);
  f.ring.cancel_all();
  while (results.empty()) f.context->poll(PollMode::kBlocking);
  for (int i = 0; i < 10; ++i) f.context->poll(PollMode::kNonBlocking);
  CHECK(results == std::vector<int32_t>{-ECANCELED});
  MUST(write_all(pipe.write.get(), "x"));
  while (results.size() < 2) f.context->poll(PollMode::kBlocking);
  CHECK(results[1] == 1);
}

// --- Life ---

TEST_CASE("IoRing: a context that moves to another thread gets another ring", "[io_ring]") {
  SKIP_WITHOUT_IO_RING();
  Fixture f;
  run(*f.context, [&](Co& co) { CHECK(f.ring.co_nop(co) == 0); });
  int32_t result = -1;
  uint64_t requests = 0;
  MUST(Thread::start("new home", [&] {
    f.context->rebind_home();
    IoRing& ring = *f.context->io_ring();
    run(*f.context, [&](Co& co) { result = ring.co_nop(co); });
    requests = ring.counters().requests;
  }));
  f.context->rebind_home();
  CHECK(result == 0);
  CHECK(requests == 1);
  CHECK(f.context->io_ring()->counters().requests == 0);
}

TEST_CASE("IoRing: misuse aborts", "[io_ring][death]") {
  SKIP_WITHOUT_IO_RING();
  CHECK(test::dies([] {
    auto context = make_context();
    IoRing& ring = *context->io_ring();
    MUST(start_here(*context, [&](Co& co) {
      std::string byte(1, '?');
      const iovec iov = part(byte);
      ring.co_readv(co, {.number = make_pipe().value().read.release()}, {&iov, 1}, 0);
    }));
    context->poll(PollMode::kNonBlocking);
    context.reset();  // with a request in flight
  }));
  CHECK(test::dies([] {
    auto context = make_context();
    MUST(context->io_ring()->register_file(0));
    context.reset();  // with a file registered
  }));
  CHECK(test::dies([] {
    auto context = make_context();
    auto other = make_context();
    IoRing& ring = *other->io_ring();
    MUST(start_here(*context, [&](Co& co) { ring.co_nop(co); }));
  }));
  std::unique_ptr<AioContext> foreign;
  MUST(Thread::start("elsewhere", [&] { foreign = make_context(); }));
  CHECK(test::dies([&] { foreign->io_ring(); }));
}
