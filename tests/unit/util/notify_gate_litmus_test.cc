// The fences of the notify gate on real cores: TSan and spin's interleavings know no store buffer,
// so that a fence is needed, and works, is shown by running the crossing with and without it.
#include <atomic>
#include <catch2/catch.hpp>
#include <vector>

#include "tests/support/litmus.h"
#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/notify_gate.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;
using test::Ballast;
using test::compiler_fence;
using test::full_fence;
using test::Jitter;
using test::pin_to;
using test::SpinBarrier;
using test::two_cpus;

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

/// One crossing per round: a poller that is about to sleep against a notifier.
template <class Policy>
class Crossing {
 public:
  enum class Until : uint8_t { kFirstLoss, kEnd };
  /// How many of at most `rounds` crossings lost the wake-up; ends at the first if so told.
  uint64_t lost_wakeups(const std::vector<int>& cpus, uint64_t rounds, Until until) {
    Thread notifier = MUST(Thread::start("notifier", [this, cpu = cpus[1]] { notify_loop(cpu); }));
    Thread poller = MUST(Thread::start("poller", [this, cpu = cpus[0], rounds, until] {
      pin_to(cpu);
      for (uint64_t round = 0; round < rounds; ++round) {
        if (until == Until::kFirstLoss && lost_ > 0) break;
        if (round % 65'536 == 0) test::Watchdog::feed();
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
  test::Watchdog watchdog("litmus", 60s);
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
  test::Watchdog watchdog("litmus without fences", 60s);
  const auto cpus = two_cpus();
  if (cpus.empty() || test::kTsan || test::kAsan) {
    WARN("SKIP: " << (test::kTsan ? "TSan makes every atomic access a fence"
                      : test::kAsan
                          ? "ASan's checks stand between the two accesses that are to cross"
                          : "the litmus test needs two CPUs"));
    return;
  }
  CHECK(loses_one<NoPollerFence>(cpus));
  CHECK(loses_one<NoNotifierFence>(cpus));
}
