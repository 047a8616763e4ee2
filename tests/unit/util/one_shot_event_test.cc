#include "util/one_shot_event.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <thread>

#include "tests/support/child.h"
#include "tests/support/death.h"
#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "util/bql.h"
#include "util/check.h"
#include "util/mutex.h"
#include "util/one_shot_event_mutex.h"
#include "util/rcu.h"
#include "util/sync_point.h"
#include "util/thread.h"

using namespace rhea;
using namespace std::chrono_literals;

namespace {

/// A mutex that knows when it is dead, so that a build without ASan sees it too.
class LivingMutex {
 public:
  void lock() {
    RHEA_CHECK(alive_ == kAlive, "mutex of a destroyed event locked");
    mutex_.lock();
  }
  void unlock() {
    RHEA_CHECK(alive_ == kAlive, "mutex of a destroyed event unlocked");
    mutex_.unlock();
  }

 private:
  static constexpr uint64_t kAlive = 0x616c697665;
  uint64_t alive_ = kAlive;
  std::mutex mutex_;
};

/// T000c: the defect that OneShotEvent exists to avoid. The word changes outside the mutex, so a
/// waiter can see it and go while the setter has yet to lock.
class BadOneShotEvent {
 public:
  void set() {
    const int old = word_.exchange(kSet);
    RHEA_SYNC_POINT("OneShotEvent::set: exchanged, not yet woken");
    if (old != kBusy) return;
    std::lock_guard lock(mutex_);
    changed_.notify_one();
  }
  void wait() {
    int word = kFree;
    if (!word_.compare_exchange_strong(word, kBusy)) return;
    RHEA_SYNC_POINT("OneShotEvent::wait: announced, not yet asleep");
    std::unique_lock lock(mutex_);
    while (word_ == kBusy) changed_.wait(lock);
  }

 private:
  enum : int { kFree, kSet, kBusy };
  std::atomic<int> word_ = kFree;
  LivingMutex mutex_;
  std::condition_variable_any changed_;
};

/// Storage in which an event is built, destroyed and then watched.
template <class Event>
class Slot {
 public:
  Slot() { test::poison(storage_.data(), storage_.size()); }
  ~Slot() { test::unpoison(storage_.data(), storage_.size()); }

  /// Null if somebody wrote into the slot while nothing lived there.
  Event* build() {
    if (!test::unpoison(storage_.data(), storage_.size())) return nullptr;
    return new (storage_.data()) Event;
  }
  void destroy(Event* event) {
    event->~Event();
    test::poison(storage_.data(), storage_.size());
  }
  bool untouched() {
    const bool untouched = test::unpoison(storage_.data(), storage_.size());
    test::poison(storage_.data(), storage_.size());
    return untouched;
  }

 private:
  // Whole lines: ASan can not poison less than eight bytes.
  static constexpr size_t kLine = 64;
  alignas(kLine) std::array<std::byte, (sizeof(Event) + kLine - 1) / kLine * kLine> storage_;
};

/// Spins for a while that differs from call to call, and at times lets the other thread have the
/// CPU: on a busy machine there may be only one.
void dawdle() {
  thread_local uint32_t random = 1;
  random = random * 1664525 + 1013904223;
  if ((random >> 16) % 16 == 0) std::this_thread::yield();
  for (uint32_t i = 0; i < (random >> 20); ++i) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
}

/// T000a: events are built, set by another thread, waited for, destroyed and poisoned. A slot is
/// used again only long after its setter has gone on, so a late write shows in the poison.
template <class Event>
uint64_t dirty_slots(uint64_t rounds) {
  std::array<Slot<Event>, 16> slots;
  std::atomic<Event*> mailbox = nullptr;
  std::atomic<bool> stop = false;
  Thread setter = MUST(Thread::start("setter", [&] {
    while (!stop) {
      Event* event = mailbox.exchange(nullptr);
      if (event == nullptr) continue;
      dawdle();
      event->set();
    }
  }));
  // Opens the window between the setter's exchange and its wake-up in every round.
  sync_point_handler.store([](const char*) { dawdle(); }, std::memory_order_release);
  uint64_t dirty = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    Slot<Event>& slot = slots[round % slots.size()];
    Event* event = slot.build();
    if (event == nullptr) {
      ++dirty;
      break;
    }
    mailbox = event;
    event->wait();
    slot.destroy(event);
    test::Watchdog::feed();
  }
  stop = true;
  setter.join();
  sync_point_handler.store(nullptr, std::memory_order_release);
  for (auto& slot : slots) dirty += slot.untouched() ? 0U : 1U;
  return dirty;
}

/// T000b: holds the setter between its exchange and its wake-up, while the waiter returns, destroys
/// the event and poisons its memory.
struct Replay {
  std::atomic<bool> announced = false;  // the waiter has said that it will sleep
  std::atomic<bool> exchanged = false;  // the setter has exchanged the word ...
  std::atomic<bool> destroyed = false;  // ... and waits for this
};
Replay* replay;

void hold_setter_over_destruction(const char* name) {
  const std::string_view point = name;
  if (point == "OneShotEvent::wait: announced, not yet asleep") {
    replay->announced = true;
    replay->announced.notify_all();
    replay->exchanged.wait(false);
  } else if (point == "OneShotEvent::set: exchanged, not yet woken") {
    replay->exchanged = true;
    replay->exchanged.notify_all();
    replay->destroyed.wait(false);
  }
}

/// True if nobody touched the event after its destruction.
template <class Event>
bool survives_late_wake() {
  Replay state;
  replay = &state;
  sync_point_handler.store(hold_setter_over_destruction, std::memory_order_release);
  Slot<Event> slot;
  Event* event = slot.build();
  Thread setter = MUST(Thread::start("setter", [&] {
    state.announced.wait(false);
    event->set();
  }));
  event->wait();
  slot.destroy(event);
  state.destroyed = true;
  state.destroyed.notify_all();
  setter.join();
  sync_point_handler.store(nullptr, std::memory_order_release);
  return slot.untouched();
}

/// FUTEX_WAKE of one sleeper on an event's word, from somebody who has no business there. How many
/// were woken.
long wake_stray(OneShotEvent* event) {
  return ::syscall(SYS_futex, event, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace

TEST_CASE("T000a: an event destroyed right after wait is not touched again", "[event][stress]") {
  test::Watchdog watchdog("T000a", 300s);
  CHECK(dirty_slots<OneShotEvent>(test::sized<uint64_t>(30'000, 1'000'000)) == 0);
}

TEST_CASE("T000a: the mutex build is not touched after wait either", "[event][stress]") {
  test::Watchdog watchdog("T000a on a mutex", 300s);
  CHECK(dirty_slots<OneShotEventMutex>(test::sized<uint64_t>(30'000, 1'000'000)) == 0);
}

TEST_CASE("T000b: a setter held before its wake-up does not touch the dead event", "[event]") {
  test::Watchdog watchdog("T000b", 60s);
  CHECK(survives_late_wake<OneShotEvent>());
}

TEST_CASE("T000c replay: word outside the lock", "[.]") {
  CHECK(survives_late_wake<BadOneShotEvent>());
}

TEST_CASE("T000c: a word changed outside the lock is caught", "[event]") {
  const auto child = test::run_hidden_test("T000c replay: word outside the lock", 60s);
  INFO(child.output);
  CHECK_FALSE(child.hung);
  CHECK_FALSE(child.passed());
  CHECK(child.says(test::kAsan ? "AddressSanitizer: use-after-poison"
                               : "mutex of a destroyed event locked"));
}

TEST_CASE("T000d: stray wake-ups do not end a wait", "[event]") {
  test::Watchdog watchdog("T000d", 60s);
  static_assert(sizeof(OneShotEvent) == sizeof(uint32_t), "its address is its word's");
  OneShotEvent event;
  std::atomic<bool> returned = false;
  Thread waiter = MUST(Thread::start("waiter", [&] {
    event.wait();
    returned = true;
  }));
  const int wanted = test::sized(1'000, 100'000);
  int woken = 0;
  while (woken < wanted && !returned) {
    if (wake_stray(&event) <= 0) continue;
    ++woken;
    test::Watchdog::feed();
  }
  CHECK_FALSE(returned);
  CHECK(woken == wanted);
  event.set();
  waiter.join();
  CHECK(returned);
}

TEST_CASE("T000f: with reset before the test no news are lost", "[event]") {
  OneShotEvent event;
  event.set();  // old news
  int items = 0;
  event.reset();
  const bool found = items > 0;
  items = 1;  // the producer comes between the consumer's test ...
  event.set();
  CHECK_FALSE(found);
  CHECK(event.wait_for(0ns));  // ... and its wait
}

TEST_CASE("T000f: a reset after the test loses them", "[event]") {
  OneShotEvent event;
  int items = 0;
  const bool found = items > 0;
  items = 1;
  event.set();
  event.reset();  // the wrong order
  CHECK_FALSE(found);
  CHECK_FALSE(event.wait_for(1ms));
}

TEST_CASE("T000f: without a reset a wait returns on old news", "[event]") {
  OneShotEvent event;
  event.set();
  event.wait();
  CHECK(event.wait_for(0ns));  // nothing has happened in between
  event.reset();
  CHECK_FALSE(event.wait_for(0ns));
}

TEST_CASE("T000f: every item arrives, and every return is paid by a set", "[event][stress]") {
  test::Watchdog watchdog("T000f", 300s);
  const uint64_t wanted = test::sized<uint64_t>(100'000, 5'000'000);
  OneShotEvent event;
  std::atomic<uint64_t> items = 0;  // relaxed throughout: the event alone has to order it
  Thread producer = MUST(Thread::start("producer", [&] {
    for (uint64_t i = 0; i < wanted; ++i) {
      items.fetch_add(1, std::memory_order_relaxed);
      event.set();
    }
  }));
  uint64_t consumed = 0;
  uint64_t returns = 0;
  while (consumed < wanted) {
    event.reset();
    const uint64_t seen = items.exchange(0, std::memory_order_relaxed);
    consumed += seen;
    if (seen > 0 || consumed == wanted) continue;
    event.wait();
    ++returns;
    test::Watchdog::feed();
  }
  producer.join();
  CHECK(consumed == wanted);
  CHECK(returns <= wanted);
}

TEST_CASE("OneShotEvent: a wait that timed out can be repeated", "[event]") {
  OneShotEvent event;
  CHECK_FALSE(event.wait_for(-1s));
  CHECK_FALSE(event.wait_for(1ms));
  CHECK_FALSE(event.is_set());
  Thread setter = MUST(Thread::start("setter", [&] { event.set(); }));
  event.wait();
  CHECK(event.is_set());
  CHECK(event.wait_for(std::chrono::nanoseconds::max()));
  event.reset();
  CHECK_FALSE(event.is_set());
}

TEST_CASE("OneShotEvent: a wait without end does not overflow its deadline", "[event]") {
  test::Watchdog watchdog("wait_for(max)", 60s);
  OneShotEvent event;
  Thread setter = MUST(Thread::start("setter", [&] {
    while (wake_stray(&event) == 0) {  // until the waiter sleeps
    }
    event.set();
  }));
  CHECK(event.wait_for(std::chrono::nanoseconds::max()));
}

TEST_CASE("OneShotEvent: waits that could never end well abort", "[event][death]") {
  CHECK(test::dies([] {
    RcuThread self;
    RcuReadGuard guard;
    OneShotEvent event;
    event.wait();
  }));
  CHECK(test::dies([] {
    Mutex mutex;
    MutexLock lock(mutex);
    OneShotEvent event;
    event.wait();
  }));
  CHECK_FALSE(test::dies([] {  // main holds the BQL while it waits for an iothread
    BqlGuard guard;
    OneShotEvent event;
    event.set();
    event.wait();
  }));
}

TEST_CASE("OneShotEventMutex: waits, times out and resets as the futex build does", "[event]") {
  OneShotEventMutex event;
  CHECK_FALSE(event.wait_for(1ms));
  Thread setter = MUST(Thread::start("setter", [&] { event.set(); }));
  event.wait();
  setter.join();
  CHECK(event.is_set());
  CHECK(event.wait_for(0ns));
  event.reset();
  CHECK_FALSE(event.is_set());
}
