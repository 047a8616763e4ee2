// The fences of the notify gate on real cores: TSan and spin's interleavings know no store buffer,
// so that a fence is needed, and works, is shown by running the crossing with and without it.
#include <pthread.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <vector>

#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/notify_gate.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

/// A counter whose read-modify-write is no fence, as a relaxed one is on most machines. (On x86 it
/// is one by accident, which would hide a missing fence behind prepare_to_sleep().) One writer.
class WeakCounter {
 public:
  explicit WeakCounter(uint32_t value) : value_(value) {}
  uint32_t fetch_add(uint32_t n, std::memory_order order) {
    const uint32_t old = value_.load(order);
    value_.store(old + n, order);
    return old;
  }
  uint32_t fetch_sub(uint32_t n, std::memory_order order) { return fetch_add(0U - n, order); }
  uint32_t load(std::memory_order order) const { return value_.load(order); }

 private:
  std::atomic<uint32_t> value_;
};

void full_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
/// Keeps the compiler, and only the compiler, from reordering.
void compiler_fence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

struct BothFences {
  using Counter = WeakCounter;
  static void fence_after_announcing() { full_fence(); }
  static void fence_after_publishing() { full_fence(); }
};
struct NoPollerFence : BothFences {
  static void fence_after_announcing() { compiler_fence(); }
};
struct NoNotifierFence : BothFences {
  static void fence_after_publishing() { compiler_fence(); }
};

/// Two CPUs this process may use; empty if there are fewer.
std::vector<int> two_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ::sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
  }
  if (cpus.size() < 2) cpus.clear();
  return cpus;
}

void pin_to(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cpu), &one);
  ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
}

/// Lets two threads start a round together; spins, for a sleep would end every race.
class SpinBarrier {
 public:
  void arrive() {
    const uint64_t mine = round_.load();
    if (arrived_.fetch_add(1) == 1) {
      arrived_ = 0;
      round_.fetch_add(1);
      return;
    }
    for (uint32_t spins = 0; round_.load() == mine; ++spins) {
      if (spins > 10'000) ::sched_yield();  // the other core is not ours at the moment
    }
  }

 private:
  alignas(64) std::atomic<uint32_t> arrived_ = 0;
  alignas(64) std::atomic<uint64_t> round_ = 0;
};

/// Memory that both cores write before each crossing: its lines are always in the other's cache, so
/// the stores queue up in the store buffer and whatever is stored next becomes visible late.
class Ballast {
 public:
  void write(uint32_t value) {
    for (auto& line : lines_) line.word.store(value, std::memory_order_relaxed);
  }

 private:
  struct alignas(64) Line {
    std::atomic<uint32_t> word = 0;
  };
  std::array<Line, 8> lines_;
};

/// Moves the two cores' starts against each other, differently in each round.
class Jitter {
 public:
  explicit Jitter(uint32_t seed) : random_(seed) {}
  void spin() {
    random_ = random_ * 1664525 + 1013904223;
    for (uint32_t i = 0; i < (random_ >> 26); ++i) compiler_fence();
  }

 private:
  uint32_t random_;
};

/// One crossing per round: a poller that is about to sleep against a notifier.
template <class Policy>
class Crossing {
 public:
  /// How many of at most `rounds` crossings lost the wake-up; ends at the first if so told.
  enum class Until : uint8_t { kFirstLoss, kEnd };
  uint64_t lost_wakeups(const std::vector<int>& cpus, uint64_t rounds, Until until) {
    Thread notifier = MUST(Thread::start("notifier", [this, cpu = cpus[1]] { notify_loop(cpu); }));
    Thread poller = MUST(Thread::start("poller", [this, cpu = cpus[0], rounds, until] {
      pin_to(cpu);
      for (uint64_t round = 0; round < rounds; ++round) {
        if (until == Until::kFirstLoss && lost_ > 0) break;
        poll_round();
      }
      stop_ = true;
      barrier_.arrive();
    }));
    poller.join();
    notifier.join();
    return lost_;
  }

 private:
  void poll_round() {
    barrier_.arrive();
    poller_jitter_.spin();
    ballast_.write(1);
    gate_.prepare_to_sleep();
    const bool saw_work = pending_.load(std::memory_order_relaxed);
    barrier_.arrive();
    lost_ += !saw_work && !kicked_.load() ? 1U : 0U;  // it sleeps, and nobody will come
    gate_.done_sleeping();
    pending_.store(false);
  }

  void notify_loop(int cpu) {
    pin_to(cpu);
    for (;;) {
      barrier_.arrive();
      if (stop_) return;
      notifier_jitter_.spin();
      ballast_.write(2);
      pending_.store(true, std::memory_order_relaxed);
      const bool kicked = gate_.notify([] {});
      kicked_ = kicked;
      barrier_.arrive();
    }
  }

  alignas(64) BasicNotifyGate<Policy> gate_;
  alignas(64) std::atomic<bool> pending_ = false;
  alignas(64) std::atomic<bool> kicked_ = false;
  std::atomic<bool> stop_ = false;
  uint64_t lost_ = 0;
  Ballast ballast_;
  Jitter poller_jitter_{1};
  Jitter notifier_jitter_{2};
  SpinBarrier barrier_;
};

template <class Policy>
uint64_t losses(const std::vector<int>& cpus, uint64_t rounds) {
  return Crossing<Policy>().lost_wakeups(cpus, rounds, Crossing<Policy>::Until::kEnd);
}
template <class Policy>
bool loses_one(const std::vector<int>& cpus) {
  constexpr uint64_t kPatience = 20'000'000;  // 40 to 1200 in 10^6 rounds were seen
  return Crossing<Policy>().lost_wakeups(cpus, kPatience, Crossing<Policy>::Until::kFirstLoss) > 0;
}

}  // namespace

TEST_CASE("NotifyGate litmus: with its fences no wake-up is lost", "[notify][litmus]") {
  test::Watchdog watchdog("litmus", 300s);
  const auto cpus = two_cpus();
  if (cpus.empty()) {
    WARN("SKIP: the litmus test needs two CPUs");
    return;
  }
  const auto rounds = test::sized<uint64_t>(1'000'000, 20'000'000);
  CHECK(losses<NotifyGatePolicy>(cpus, rounds) == 0);
  CHECK(losses<BothFences>(cpus, rounds) == 0);
}

TEST_CASE("NotifyGate litmus: without either fence wake-ups are lost", "[notify][litmus]") {
  test::Watchdog watchdog("litmus without fences", 300s);
  const auto cpus = two_cpus();
  if (cpus.empty() || test::kTsan) {
    WARN("SKIP: " << (test::kTsan ? "TSan makes every atomic access a fence"
                                  : "the litmus test needs two CPUs"));
    return;
  }
  CHECK(loses_one<NoPollerFence>(cpus));
  CHECK(loses_one<NoNotifierFence>(cpus));
}
