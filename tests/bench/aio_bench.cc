// What the event loop costs: scheduling and dispatching a bottom half, arming and running a timer,
// a round trip between two threads, asleep in epoll or in the ring or busy-polling, and a request
// that does nothing but go through the ring. Prints nanoseconds.
//
// For comparison: a bare eventfd round trip between two threads, which no loop that sleeps can
// beat.
#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/fd.h"
#include "util/io_ring.h"
#include "util/io_thread.h"
#include "util/one_shot_event.h"
#include "util/thread.h"
#include "util/timer.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

constexpr int kRuns = 5;  // the best of

template <class F>
double best_ns_each(long rounds, F&& f) {
  double best = 1e18;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    f(rounds);
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    best = std::min(best, spent.count() / static_cast<double>(rounds));
  }
  return best;
}

/// One bottom half per turn: the price of a turn, its epoll_wait included.
double one_per_turn(AioContext& context) {
  Bh bh(context, [] {});
  return best_ns_each(500'000, [&](long rounds) {
    for (long i = 0; i < rounds; ++i) {
      bh.schedule();
      context.poll(PollMode::kBlocking);
    }
  });
}

/// Many bottom halves in one turn: the price of one.
double many_per_turn(AioContext& context) {
  std::array<std::optional<Bh>, 64> bhs;
  for (auto& bh : bhs) bh.emplace(context, [] {});
  return best_ns_each(6'400'000, [&](long rounds) {
    for (long i = 0; i < rounds; i += 64) {
      for (auto& bh : bhs) bh->schedule();
      context.poll(PollMode::kNonBlocking);
    }
  });
}

double timer_rearm(AioContext& context) {
  std::array<std::optional<Timer>, 16> others;
  for (size_t i = 0; i < others.size(); ++i) {
    others[i].emplace(context.timers(), [] {});
    others[i]->arm_after(1h + i * 1s);
  }
  Timer timer(context.timers(), [] {});
  return best_ns_each(5'000'000, [&](long rounds) {
    for (long i = 0; i < rounds; ++i) timer.arm_at(2h + Nanoseconds(i % 7));
  });
}

/// `depth` coroutines each send one request after the other.
double ring_requests(AioContext& context, long depth) {
  IoRing& ring = *context.io_ring();
  return best_ns_each(1'000'000, [&](long rounds) {
    long left = rounds;
    for (long i = 0; i < depth; ++i) {
      MUST(start_here(context, [&](Co& co) {
        while (left-- > 0) ring.co_nop(co);
      }));
    }
    while (ring.in_flight() > 0) context.poll(PollMode::kBlocking);
  });
}

/// Runs `body` at home.
template <class F>
void at_home(AioContext& context, F body) {
  OneShotEvent done;
  context.post([&] {
    body();
    done.set();
  });
  done.wait();
}

/// A read that never ends keeps a thread's ring busy: it sleeps there.
class BusyRing {
 public:
  explicit BusyRing(AioContext& context) : context_(context) {
    at_home(context_, [this] { MUST(start_here(context_, [this](Co& co) { read(co); })); });
  }
  ~BusyRing() {
    at_home(context_, [this] { context_.io_ring()->cancel_all(); });
    ended_.wait();
  }
  BusyRing(const BusyRing&) = delete;
  BusyRing& operator=(const BusyRing&) = delete;

 private:
  void read(Co& co) {
    char byte = 0;
    const iovec part{&byte, 1};
    context_.io_ring()->co_readv(co, {.number = pipe_.read.get()}, {&part, 1}, 0);
    ended_.set();
  }

  AioContext& context_;
  const Pipe pipe_ = make_pipe().value();
  OneShotEvent ended_;
};

enum class Rings { kNone, kBusy };

/// Two loops hand one bottom half to each other; a round is there and back.
double round_trip(const BusyPollParams& busy_poll, Rings rings) {
  auto a = MUST(IOThread::create("a", busy_poll));
  auto b = MUST(IOThread::create("b", busy_poll));
  std::optional<BusyRing> busy_a;
  std::optional<BusyRing> busy_b;
  if (rings == Rings::kBusy) {
    busy_a.emplace(a->context());
    busy_b.emplace(b->context());
  }
  long left = 0;
  OneShotEvent done;
  std::unique_ptr<Bh> ping;
  std::unique_ptr<Bh> pong;
  ping = std::make_unique<Bh>(a->context(), [&] {
    if (left-- == 0) return done.set();
    pong->schedule();
  });
  pong = std::make_unique<Bh>(b->context(), [&] { ping->schedule(); });
  const double ns = best_ns_each(50'000, [&](long rounds) {
    left = rounds;
    done.reset();
    ping->schedule();
    done.wait();
  });
  busy_a.reset();
  busy_b.reset();
  a.reset();
  b.reset();
  return ns;
}

void wait_readable(const Fd& fd) {
  pollfd ready{.fd = fd.get(), .events = POLLIN, .revents = 0};
  ::poll(&ready, 1, -1);
  clear_eventfd(fd.get());
}

double bare_eventfd_round_trip() {
  const Fd there = MUST(make_eventfd());
  const Fd back = MUST(make_eventfd());
  return best_ns_each(50'000, [&](long rounds) {
    Thread other = MUST(Thread::start("other", [&, rounds] {
      for (long i = 0; i < rounds; ++i) {
        wait_readable(there);
        signal_eventfd(back.get());
      }
    }));
    for (long i = 0; i < rounds; ++i) {
      signal_eventfd(there.get());
      wait_readable(back);
    }
  });
}

}  // namespace

int main() {
  auto context = MUST(AioContext::create("bench"));
  std::printf("bottom half, one per turn          %8.1f ns\n", one_per_turn(*context));
  std::printf("bottom half, 64 per turn           %8.1f ns\n", many_per_turn(*context));
  std::printf("timer re-armed among 16            %8.1f ns\n", timer_rearm(*context));
  std::printf("bare eventfd round trip            %8.1f ns\n", bare_eventfd_round_trip());
  std::printf("round trip, asleep                 %8.1f ns\n", round_trip({}, Rings::kNone));
  std::printf("round trip, busy-polling 32 us     %8.1f ns\n",
              round_trip({.longest = 32us}, Rings::kNone));
  if (context->io_ring() == nullptr) return 0;  // and has said why
  std::printf("round trip, asleep, I/O in flight  %8.1f ns\n", round_trip({}, Rings::kBusy));
  std::printf("request through the ring, depth 1  %8.1f ns\n", ring_requests(*context, 1));
  std::printf("request through the ring, depth 64 %8.1f ns\n", ring_requests(*context, 64));
  return 0;
}
