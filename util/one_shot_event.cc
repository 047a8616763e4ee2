#include "util/one_shot_event.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "util/check.h"
#include "util/lock_rank.h"
#include "util/rcu.h"
#include "util/sync_point.h"

namespace rhea {
namespace {

using FutexWord = std::atomic<uint32_t>;
static_assert(sizeof(FutexWord) == sizeof(uint32_t) && FutexWord::is_always_lock_free);

/// Sleeps while `*word == expected`, until woken, interrupted or past the absolute `deadline` of
/// CLOCK_MONOTONIC (null: none). False if the time ran out.
bool futex_wait(FutexWord* word, uint32_t expected, const timespec* deadline) noexcept {
  const long rc = ::syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, deadline, nullptr,
                            FUTEX_BITSET_MATCH_ANY);
  if (rc == 0 || errno == EAGAIN || errno == EINTR) return true;
  RHEA_CHECK(errno == ETIMEDOUT, "futex wait: errno {}", errno);
  return false;
}

/// Wakes one sleeper. Only the address counts: nothing need live there any more.
void futex_wake(const FutexWord* address) noexcept {
  ::syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

timespec monotonic_in(std::chrono::nanoseconds delay) noexcept {
  constexpr int64_t kSecond = 1'000'000'000;
  constexpr int64_t kFarSeconds = int64_t{1} << 32;  // beyond any uptime, and nothing overflows
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t count = delay.count() > 0 ? delay.count() : 0;
  const int64_t nanoseconds = now.tv_nsec + count % kSecond;
  const int64_t seconds = now.tv_sec + count / kSecond + nanoseconds / kSecond;
  return {.tv_sec = seconds < kFarSeconds ? seconds : kFarSeconds,
          .tv_nsec = nanoseconds % kSecond};
}

}  // namespace

struct OneShotEvent::Deadline {
  timespec at;
};

void OneShotEvent::set() noexcept {
  const FutexWord* address = &word_;
  const uint32_t old = word_.exchange(kSet);
  // From here on the event may be gone.
  RHEA_SYNC_POINT("OneShotEvent::set: exchanged, not yet woken");
  if (old == kBusy) futex_wake(address);
}

void OneShotEvent::wait() noexcept { wait_until(nullptr); }

bool OneShotEvent::wait_for(std::chrono::nanoseconds timeout) noexcept {
  if (is_set()) return true;
  const Deadline deadline{monotonic_in(timeout)};
  return wait_until(&deadline);
}

bool OneShotEvent::wait_until(const Deadline* deadline) noexcept {
  RHEA_CHECK(!rcu.in_read_section(), "waiting for an event inside a read section");
  RHEA_CHECK(held_locks_below_bql() == 0, "waiting for an event with a lock held");
  uint32_t word = kFree;
  if (!word_.compare_exchange_strong(word, kBusy)) {
    RHEA_CHECK(word == kSet, "two threads wait for one event");
    return true;
  }
  RHEA_SYNC_POINT("OneShotEvent::wait: announced, not yet asleep");
  while (futex_wait(&word_, kBusy, deadline != nullptr ? &deadline->at : nullptr)) {
    if (is_set()) return true;
  }
  // Nobody is to be woken any more, unless the setter came at the last moment.
  word = kBusy;
  return !word_.compare_exchange_strong(word, kFree);
}

bool OneShotEvent::is_set() const noexcept {
  // acquire: pairs with the exchange in set()
  return word_.load(std::memory_order_acquire) == kSet;
}

void OneShotEvent::reset() noexcept {
  // A read-modify-write, not a store: it either forgets a set() and sees what that published, or it
  // comes first and the set() stays.
  const uint32_t old = word_.exchange(kFree);
  RHEA_CHECK(old != kBusy, "reset of an event that a thread waits for");
}

}  // namespace rhea
