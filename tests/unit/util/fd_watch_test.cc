#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/busy_ring.h"
#include "tests/support/death.h"
#include "tests/support/watchdog.h"
#include "util/aio_context.h"
#include "util/fd.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

/// For tests of death, in which a ring can not be busy.
std::unique_ptr<AioContext> make_quiet_context() { return MUST(AioContext::create("test")); }

/// Each test runs twice: with an idle ring, or none, and with a busy one.
test::LoopUnderTest make_context() {
  return test::LoopUnderTest(GENERATE(test::SleepsIn::kEpoll, test::SleepsIn::kRing));
}

Fd signalled_eventfd() {
  Fd fd = MUST(make_eventfd());
  signal_eventfd(fd.get());
  return fd;
}

/// Two watches that are ready in the same turn; the callback of each does `act(*this, other)`.
struct Siblings {
  template <class F>
  explicit Siblings(F act) {
    for (size_t i = 0; i < fds.size(); ++i) {
      watches[i] = MUST(context->watch(fds[i].get(), FdEvents::kRead, [this, act, i](FdEvents) {
        ++calls;
        act(*this, watches[1 - i]);
      }));
    }
  }
  test::LoopUnderTest context = make_context();
  std::array<Fd, 2> fds{signalled_eventfd(), signalled_eventfd()};
  int calls = 0;
  std::array<FdWatch, 2> watches;
};

struct SocketPair {
  SocketPair() {
    std::array<int, 2> fds{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
    ours = Fd(fds[0]);
    peer = Fd(fds[1]);
  }
  Fd ours, peer;
};

}  // namespace

TEST_CASE("FdWatch: is called for as long as its descriptor is ready", "[aio]") {
  test::Watchdog watchdog("level-triggered watch", 60s);
  auto context = make_context();
  const Fd fd = MUST(make_eventfd());
  int calls = 0;
  const FdWatch watch = MUST(context->watch(fd.get(), FdEvents::kRead, [&](FdEvents events) {
    CHECK(events == FdEvents::kRead);
    ++calls;
  }));
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  signal_eventfd(fd.get());
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(calls == 2);
  clear_eventfd(fd.get());
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(calls == 2);
}

TEST_CASE("FdWatch: tells what it waits for and nothing else", "[aio]") {
  auto context = make_context();
  const SocketPair sockets;
  MUST(write_all(sockets.peer.get(), "x"));
  FdEvents seen = FdEvents::kNone;
  FdWatch watch =
      MUST(context->watch(sockets.ours.get(), FdEvents::kRead, [&](FdEvents e) { seen = e; }));
  const auto poll_with = [&](FdEvents wanted) {
    seen = FdEvents::kNone;
    watch.set_events(wanted);
    context->poll(PollMode::kNonBlocking);
    return seen;
  };
  CHECK(poll_with(FdEvents::kRead) == FdEvents::kRead);
  CHECK(poll_with(FdEvents::kWrite) == FdEvents::kWrite);
  CHECK(poll_with(FdEvents::kReadWrite) == FdEvents::kReadWrite);
  CHECK(poll_with(FdEvents::kNone) == FdEvents::kNone);
  CHECK(poll_with(FdEvents::kRead) == FdEvents::kRead);
}

TEST_CASE("FdWatch: a hang-up reaches a reader and a writer", "[aio]") {
  auto context = make_context();
  SocketPair sockets;
  sockets.peer.reset();
  FdEvents seen = FdEvents::kNone;
  FdWatch watch =
      MUST(context->watch(sockets.ours.get(), FdEvents::kRead, [&](FdEvents e) { seen = e; }));
  context->poll(PollMode::kNonBlocking);
  CHECK(seen == FdEvents::kRead);
  watch.set_events(FdEvents::kWrite);
  context->poll(PollMode::kNonBlocking);
  CHECK(seen == FdEvents::kWrite);
}

TEST_CASE("FdWatch: a hang-up that nobody waits for does not keep the loop awake", "[aio]") {
  test::Watchdog watchdog("hang-up nobody waits for", 60s);
  auto context = make_context();
  SocketPair sockets;
  int calls = 0;
  FdWatch watch =
      MUST(context->watch(sockets.ours.get(), FdEvents::kNone, [&](FdEvents) { ++calls; }));
  sockets.peer.reset();
  bool fired = false;
  Timer timer(context->timers(), [&] { fired = true; });
  timer.arm_after(5ms);
  int polls = 0;
  while (!fired) {
    context->poll(PollMode::kBlocking);
    ++polls;
  }
  CHECK(calls == 0);
  CHECK(polls <= 4);
  watch.set_events(FdEvents::kRead);
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(calls == 1);
}

TEST_CASE("FdWatch: may end in its own callback", "[aio]") {
  auto context = make_context();
  const Fd fd = signalled_eventfd();
  FdWatch watch;
  std::string log;
  watch = MUST(context->watch(fd.get(), FdEvents::kRead,
                              [&log, &watch, tail = std::string(64, 'x')](FdEvents) {
                                watch = {};
                                log += tail[63];  // what it captured lives until it returns
                              }));
  CHECK(context->poll(PollMode::kNonBlocking));
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(log == "x");
  CHECK_FALSE(watch);
}

TEST_CASE("FdWatch: one that a sibling ended in the same turn is not called", "[aio]") {
  Siblings two([](Siblings&, FdWatch& other) { other = {}; });
  two.context->poll(PollMode::kNonBlocking);
  CHECK(two.calls == 1);
}

TEST_CASE("FdWatch: one that a sibling turned off in the same turn is not called", "[aio]") {
  Siblings two([](Siblings&, FdWatch& other) { other.set_events(FdEvents::kNone); });
  two.context->poll(PollMode::kNonBlocking);
  CHECK(two.calls == 1);
}

TEST_CASE("FdWatch: one that ended in a nested poll is not called by the outer one", "[aio]") {
  Siblings two([](Siblings& all, FdWatch& other) {
    all.context->post([&other] { other = {}; });
    for (const Fd& fd : all.fds) clear_eventfd(fd.get());
    all.context->poll(PollMode::kNonBlocking);
  });
  two.context->poll(PollMode::kNonBlocking);
  CHECK(two.calls == 1);
}

TEST_CASE("FdWatch: one that starts in a callback works", "[aio]") {
  auto context = make_context();
  const Fd first = signalled_eventfd();
  const Fd second = signalled_eventfd();
  FdWatch inner;
  int calls = 0;
  const auto start_inner = [&](FdEvents) {
    if (inner) return;
    inner = MUST(context->watch(second.get(), FdEvents::kRead, [&](FdEvents) { ++calls; }));
  };
  const FdWatch outer = MUST(context->watch(first.get(), FdEvents::kRead, start_inner));
  context->poll(PollMode::kNonBlocking);
  context->poll(PollMode::kNonBlocking);
  CHECK(calls == 1);
}

TEST_CASE("FdWatch: assignment ends the watch that was there", "[aio]") {
  auto context = make_context();
  const Fd fd = signalled_eventfd();
  const Fd quiet = MUST(make_eventfd());
  int calls = 0;
  FdWatch a = MUST(context->watch(fd.get(), FdEvents::kRead, [&](FdEvents) { ++calls; }));
  FdWatch b = MUST(context->watch(quiet.get(), FdEvents::kRead, [](FdEvents) {}));
  a = std::move(b);
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(calls == 0);
  // The descriptor is free to be watched again.
  CHECK(context->watch(fd.get(), FdEvents::kRead, [](FdEvents) {}).has_value());
}

TEST_CASE("FdWatch: more ready descriptors than one turn takes are all served", "[aio]") {
  auto context = make_context();
  std::vector<Fd> fds;
  std::vector<FdWatch> watches;
  std::vector<int> calls(150);
  for (size_t i = 0; i < calls.size(); ++i) {
    fds.push_back(signalled_eventfd());
    watches.push_back(MUST(context->watch(fds[i].get(), FdEvents::kRead, [&, i](FdEvents) {
      ++calls[i];
      clear_eventfd(fds[i].get());
    })));
  }
  while (context->poll(PollMode::kNonBlocking)) {
  }
  CHECK(calls == std::vector<int>(150, 1));
}

TEST_CASE("FdWatch: a descriptor that can not be waited for is refused", "[aio]") {
  auto context = make_context();
  const Fd file(::memfd_create("file", MFD_CLOEXEC));
  const Fd regular(::dup(file.get()));
  const auto refused = context->watch(regular.get(), FdEvents::kRead, [](FdEvents) {});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().message().find("cannot watch descriptor") != std::string::npos);
  CHECK_FALSE(context->watch(-1, FdEvents::kRead, [](FdEvents) {}).has_value());
}

TEST_CASE("FdWatch: a second watch of one descriptor is refused", "[aio]") {
  auto context = make_context();
  const Fd fd = MUST(make_eventfd());
  const FdWatch first = MUST(context->watch(fd.get(), FdEvents::kRead, [](FdEvents) {}));
  const auto second = context->watch(fd.get(), FdEvents::kWrite, [](FdEvents) {});
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().kind() == ErrorKind::kExists);
}

TEST_CASE("FdWatch: a busy-polling context believes the ready check", "[aio]") {
  test::Watchdog watchdog("ready check", 60s);
  auto context = make_context();
  const Fd fd = MUST(make_eventfd());
  int calls = 0;
  int asked = 0;
  bool ready = false;
  FdWatch watch = MUST(context->watch(fd.get(), FdEvents::kRead, [&](FdEvents events) {
    CHECK(events == FdEvents::kRead);
    ++calls;
  }));
  watch.set_ready_check([&] {
    ++asked;
    return ready;
  });
  ready = true;
  CHECK_FALSE(context->poll(PollMode::kNonBlocking));
  CHECK(asked == 0);
  context->set_busy_poll({.longest = 1ms});
  CHECK(context->poll(PollMode::kBlocking));
  CHECK(calls == 1);
  SECTION("and is called once if the descriptor is ready as well") {
    signal_eventfd(fd.get());
    CHECK(context->poll(PollMode::kBlocking));
    CHECK(calls == 2);
  }
  SECTION("but not while the watch is off: the thread sleeps") {
    watch.set_events(FdEvents::kNone);
    const int before = asked;
    Timer timer(context->timers(), [] {});
    timer.arm_after(100us);
    CHECK(context->poll(PollMode::kBlocking));
    CHECK(asked == before);
    CHECK(calls == 1);
    watch.set_events(FdEvents::kRead);
    CHECK(context->poll(PollMode::kBlocking));
    CHECK(calls == 2);
  }
  SECTION("until the check is taken away") {
    const int before = asked;
    watch.set_ready_check({});
    signal_eventfd(fd.get());
    CHECK(context->poll(PollMode::kBlocking));
    CHECK(asked == before);
  }
  SECTION("until the watch ends") {
    const int before = asked;
    watch = {};
    context->notify();
    context->poll(PollMode::kBlocking);
    CHECK(asked == before);
  }
}

TEST_CASE("FdWatch: a busy poll tells when it begins and ends", "[aio]") {
  test::Watchdog watchdog("busy-poll span", 60s);
  auto context = make_context();
  context->set_busy_poll({.longest = 1ms});
  const Fd fd = MUST(make_eventfd());
  std::string log;
  bool ready = false, comes_late = false;
  FdWatch watch = MUST(context->watch(fd.get(), FdEvents::kRead, [&](FdEvents) {
    log += "called ";
    clear_eventfd(fd.get());
  }));
  watch.set_ready_check([&] { return ready; }, {.begins = [&] { log += "begins "; },
                                                .ends =
                                                    [&] {
                                                      log += "ends ";
                                                      if (comes_late) signal_eventfd(fd.get());
                                                    }});
  Timer timer(context->timers(), [&] { log += "timer "; });
  SECTION("but not its end to whom it calls instead") {
    ready = true;
    context->poll(PollMode::kBlocking);
    CHECK(log == "begins called ");
  }
  SECTION("as it goes to sleep; what has come is there then") {
    comes_late = true;
    timer.arm_after(1ms);
    context->poll(PollMode::kBlocking);
    CHECK(log == "begins ends called ");
  }
  SECTION("as other work ends it") {
    Bh bh(*context, [&] { log += "bottom half "; });
    bh.schedule();
    context->poll(PollMode::kBlocking);
    CHECK(log == "begins ends bottom half ");
  }
  SECTION("not to a watch that is off") {
    watch.set_events(FdEvents::kNone);
    timer.arm_after(100us);
    context->poll(PollMode::kBlocking);
    CHECK(log == "timer ");
  }
}

TEST_CASE("FdWatch: misuse aborts", "[aio][death]") {
  const Fd fd = MUST(make_eventfd());
  CHECK(test::dies([&] {
    auto context = make_quiet_context();
    const FdWatch watch = MUST(context->watch(fd.get(), FdEvents::kRead, [](FdEvents) {}));
    context.reset();
  }));
  CHECK(test::dies([&] {
    auto context = make_quiet_context();
    Fd closed_too_early = MUST(make_eventfd());
    FdWatch watch = MUST(context->watch(closed_too_early.get(), FdEvents::kRead, [](FdEvents) {}));
    closed_too_early.reset();
    watch.set_events(FdEvents::kWrite);
  }));
}
