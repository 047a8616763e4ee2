// The fences of the graph lock and of the request gate on real cores (T002d): each crossing is run
// with them and without either. Main's wait for a kick is a NotifyGate, whose litmus is
// tests/unit/util/notify_gate_litmus_test.cc.
#include <catch2/catch.hpp>
#include <functional>
#include <string_view>

#include "block/internal/graph_lock_impl.h"
#include "block/internal/request_gate_impl.h"
#include "tests/support/litmus.h"
#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/block/block_fixture.h"

using namespace rhea;
using namespace rhea::block;
using namespace rhea::block::test;
using namespace rhea::test;
using namespace std::chrono_literals;

namespace {

struct LockWithoutReaderFence : GraphLockPolicy {
  static void fence_after_entering() noexcept { compiler_fence(); }
};
struct LockWithoutWriterFence : GraphLockPolicy {
  static void fence_after_flag() noexcept { compiler_fence(); }
};
struct GateWithoutRequestFence : RequestGatePolicy {
  static void fence_after_entering() noexcept { compiler_fence(); }
};
struct GateWithoutShutterFence : RequestGatePolicy {
  static void fence_after_shutting() noexcept { compiler_fence(); }
};

/// Main, which shuts, against a coroutine, which enters; each stays long enough to be met.
class Meeting {
 public:
  void stay(std::atomic<bool>& mine, const std::atomic<bool>& other) {
    mine = true;
    for (int i = 0; i < 100; ++i) compiler_fence();
    if (other) met_ = true;
    mine = false;
  }
  void enter() { stay(inside_, alone_); }
  void shut() { stay(alone_, inside_); }
  /// Whether the two were in there together.
  bool met() const { return met_; }

 private:
  alignas(64) std::atomic<bool> inside_ = false;
  alignas(64) std::atomic<bool> alone_ = false;
  alignas(64) std::atomic<bool> met_ = false;
};

/// The graph lock: the round begins when the writer has seen nobody and is about to raise its flag.
template <class Policy>
class LockCrossing {
 public:
  explicit LockCrossing(BlockFixture& f) : f_(f) {
    lock_.set_waiter(&f.loop().waiter());
    for (BlockContext* context : graph_lock.contexts()) lock_.add_context(*context);
  }
  ~LockCrossing() {
    for (BlockContext* context : graph_lock.contexts()) lock_.remove_context(*context);
  }
  void enter(Co& co, Meeting& meeting) {
    lock_.read_lock(co);
    meeting.enter();
    lock_.read_unlock(co);
  }
  template <class Begin>
  void shut(Begin&& begin, Meeting& meeting) {
    begin_ = std::forward<Begin>(begin);
    sync_point_handler = begin_round;
    RHEA_CHECK(lock_.write_lock(f_.gs(), 1h));
    sync_point_handler = nullptr;
    meeting.shut();
    lock_.write_unlock(f_.gs());
  }

 private:
  /// Not a SyncAction, whose counting is a fence at the point after the flag.
  static void begin_round(const char* name) {
    constexpr std::string_view kPoint = "GraphLock::write_lock: nobody seen, flag still down";
    if (name == kPoint && begin_) std::exchange(begin_, nullptr)();
  }

  BlockFixture& f_;
  inline static std::function<void()> begin_;  // main's
  BasicGraphLock<Policy> lock_;
};

template <class Policy>
class GateCrossing {
 public:
  explicit GateCrossing(BlockFixture&) {}
  void enter(Co& co, Meeting& meeting) {
    gate_.enter(co);
    meeting.enter();
    gate_.leave(co);
  }
  template <class Begin>
  void shut(Begin&& begin, Meeting& meeting) {
    begin();
    gate_.shut();
    if (gate_.inside() == 0) meeting.shut();
    gate_.open();
  }

 private:
  BasicRequestGate<Policy> gate_;
};

/// How many rounds were made: `rounds`, or fewer if the two met or the time was up.
template <class Crossing>
uint64_t rounds_until_met(const std::vector<int>& cpus, uint64_t rounds, bool& met,
                          std::chrono::seconds most = 1h) {
  const auto end = std::chrono::steady_clock::now() + most;
  cpu_set_t before;
  ::pthread_getaffinity_np(::pthread_self(), sizeof before, &before);
  uint64_t round = 0;
  {
    BlockFixture f;
    AioContext& thread = f.add_thread();
    Crossing crossing(f);
    Meeting meeting;
    SpinBarrier barrier;
    Ballast ballast;
    std::atomic<bool> stop = false, stopped = false;
    Jitter reader_jitter{1}, writer_jitter{2};
    MUST(spawn(thread, [&, cpu = cpus[1]](Co& co) {
      pin_to(cpu);
      for (;;) {
        barrier.arrive();
        if (stop) break;
        reader_jitter.spin();
        ballast.write(1);
        crossing.enter(co, meeting);
        barrier.arrive();
      }
      stopped = true;
    }));
    pin_to(cpus[0]);
    const auto begin = [&] {
      barrier.arrive();
      writer_jitter.spin();
      ballast.write(2);
    };
    for (; round < rounds && !meeting.met(); ++round) {
      if (round % 1024 == 0) {
        if (std::chrono::steady_clock::now() > end) break;
        Watchdog::feed();
      }
      crossing.shut(begin, meeting);
      barrier.arrive();
    }
    stop = true;
    barrier.arrive();
    while (!stopped) std::this_thread::yield();
    met = meeting.met();
  }
  ::pthread_setaffinity_np(::pthread_self(), sizeof before, &before);
  return round;
}

/// Whether the two meet. Two cores that others use may keep them apart for long: the short size
/// gives up and says so, the full size insists.
template <class Crossing>
bool meets(const std::vector<int>& cpus) {
  constexpr uint64_t kPatience = 20'000'000;
  bool met = false;
  rounds_until_met<Crossing>(cpus, kPatience, met, sized(10s, 600s));
  if (met || full_size()) return met;
  WARN("SKIP: two cores were not free enough for a meeting within 10 s");
  return true;
}

}  // namespace

TEST_CASE("T002d: with their fences the lock and the gate keep the two apart", "[graph][litmus]") {
  Watchdog watchdog("graph litmus", 60s);
  const auto cpus = two_cpus();
  if (cpus.empty()) {
    WARN("SKIP: the litmus test needs two CPUs");
    return;
  }
  const auto rounds = sized<uint64_t>(10'000, 5'000'000);
  bool met = false;
  CHECK(rounds_until_met<LockCrossing<GraphLockPolicy>>(cpus, rounds, met) == rounds);
  CHECK_FALSE(met);
  CHECK(rounds_until_met<GateCrossing<RequestGatePolicy>>(cpus, rounds, met) == rounds);
  CHECK_FALSE(met);
}

TEST_CASE("T002d: without either fence they meet", "[graph][litmus]") {
  Watchdog watchdog("graph litmus without fences", 60s);
  const auto cpus = two_cpus();
  if (cpus.empty() || kTsan || kAsan) {
    WARN("SKIP: " << (cpus.empty()
                          ? "the litmus test needs two CPUs"
                          : "a sanitizer's work between two accesses hides what a fence is for"));
    return;
  }
  CHECK(meets<LockCrossing<LockWithoutReaderFence>>(cpus));
  CHECK(meets<LockCrossing<LockWithoutWriterFence>>(cpus));
  CHECK(meets<GateCrossing<GateWithoutRequestFence>>(cpus));
  CHECK(meets<GateCrossing<GateWithoutShutterFence>>(cpus));
}
