// OneShotEvent: one thread waits until another has set it, and may destroy it right after.
//
// The problem: a waiter keeps the event on its stack and returns as soon as it sees SET. A setter
// that still has to lock or signal something inside the event then does so in a dead object. With a
// mutex and a condition variable inside, but the word changed outside the mutex, that took years to
// find. std::latch, std::counting_semaphore and std::atomic::notify_one promise nothing here.
//
// The answer: the setter's exchange is its last access. What follows is FUTEX_WAKE, which takes an
// address and does not look at it. So the wake-up may reach whoever uses the address next: like all
// futex waits, ours believes the word and never the wake-up.
// Model: tests/models/one_shot_event.pml.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace rhea {

/// A flag that one thread can sleep on.
///
/// Thread: set() and is_set() from any thread; wait(), wait_for() and reset() on one thread at a
/// time. A thread that waits is in no RCU read section and holds no lock but the BQL (aborts).
/// Invariants: I0: once wait() has returned, or wait_for() or is_set() has returned true, no
/// setter that was seen touches the event again; if there was only one, it may be destroyed. What
/// was written before set() is visible then. After wait_for() has returned false a setter may
/// still come: the event must stay.
///
/// An event that lives longer is used in this order, or news are lost:
///   producer: make the condition true; set()
///   consumer: loop { reset(); test the condition; if it does not hold, wait() }
class OneShotEvent {
 public:
  OneShotEvent() = default;
  OneShotEvent(const OneShotEvent&) = delete;
  OneShotEvent& operator=(const OneShotEvent&) = delete;

  void set() noexcept;
  /// Sleeps until the event is set.
  void wait() noexcept;
  /// As wait(), but no longer than `timeout`; false when the time ran out.
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds timeout) noexcept;
  bool is_set() const noexcept;
  /// Clears the event. What was written before the last set() that this forgets is visible.
  void reset() noexcept;

 private:
  enum Word : uint32_t { kFree, kSet, kBusy };  // kBusy: clear, and a thread sleeps or is about to

  struct Deadline;
  bool wait_until(const Deadline* deadline) noexcept;

  std::atomic<uint32_t> word_{kFree};
};

}  // namespace rhea
