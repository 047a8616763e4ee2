// NotifyGate: decides whether work that was published for a loop needs a wake-up.
//
// The problem: writing an eventfd for every bottom half costs a system call, and is needed only
// when some thread sleeps in poll, or is about to. Asking the wrong question ("is somebody
// dispatching?"), keeping the answer in one bool, or asking without a fence each lost wake-ups for
// years. The right question is "how many threads have said that they may sleep?".
//
//   poller                                        notifier
//   1 prepare_to_sleep()   count + 1, fence       1 publish the work
//   2 look at pending work; sleep only if none    2 notify(kick)   fence, kick if count > 0
//   3 done_sleeping()      count - 1
//   4 clear the eventfd
//   5 consume the pending work, dispatch
//
// - 1 before 2 on both sides, with a full fence between: of two threads that cross, at least one
//   sees the other.
// - 4 before 5: a kick that comes after the clear is for work that 5 may have missed, and stays.
// - 3 before 5: a handler that schedules more work needs no kick for its own loop, which will look
//   again before it sleeps. A nested poll in a handler goes through 1-5 itself.
// - A poll that does not block skips 1 and 3.
// - Work that is pending already needs no second publication and no second notify.
// Model: tests/models/notify.pml, tests/models/store_buffer.pml.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "util/check.h"

namespace rhea {

/// What the gate is made of; tests replace a part to show what it is for.
struct NotifyGatePolicy {
  using Counter = std::atomic<uint32_t>;
  static void fence_after_announcing() noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  static void fence_after_publishing() noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
};

/// The count of threads that sleep in one loop's poll or may be about to. A count and not a flag:
/// several threads, and several nesting levels, may poll one loop.
///
/// Thread: any.
/// Invariants: I7: no thread sleeps while work is pending and no kick is under way. I8: at rest,
/// sleepers() is the number of threads asleep in a blocking poll.
template <class Policy = NotifyGatePolicy>
class BasicNotifyGate {
 public:
  /// Announces a blocking poll, before the first look at pending work.
  void prepare_to_sleep() noexcept {
    // relaxed: the fence orders it before the look; pairs with the fence in notify()
    sleepers_.fetch_add(1, std::memory_order_relaxed);
    Policy::fence_after_announcing();
  }

  /// The poll has returned; before anything is dispatched.
  void done_sleeping() noexcept {
    // relaxed: a notifier that still sees the old count kicks once too often. One that sees the new
    // count and does not kick is seen by our next look, which prepare_to_sleep() orders.
    const uint32_t before = sleepers_.fetch_sub(1, std::memory_order_relaxed);
    RHEA_CHECK(before != 0, "done_sleeping without prepare_to_sleep");
  }

  /// Calls `kick` if anybody may sleep; the work must be published before. True if it kicked.
  template <class Kick>
  bool notify(Kick&& kick) {
    // Between the publication and the look at the count; pairs with the one in prepare_to_sleep().
    Policy::fence_after_publishing();
    // relaxed: ordered by the fence
    if (sleepers_.load(std::memory_order_relaxed) == 0) return false;
    std::forward<Kick>(kick)();
    return true;
  }

  /// For tests and assertions: changes under the reader's feet.
  uint32_t sleepers() const noexcept { return sleepers_.load(std::memory_order_relaxed); }

 private:
  typename Policy::Counter sleepers_{0};
};

using NotifyGate = BasicNotifyGate<>;

}  // namespace rhea
