// Timers: callbacks at a deadline of some clock.
#pragma once

#include <functional>
#include <memory>

#include "util/clock.h"

namespace rhea {

class TimerList;

/// A one-shot timer; arm it again in its callback for a period.
/// Thread: the home thread of its list; or, for a list of the machine's clock, any thread that
/// holds the BQL, under which its callbacks run. Destroying or cancelling it guarantees that the
/// callback does not start afterwards. Its own callback may destroy it.
/// Invariants: it does not outlive its list. Arming again allocates nothing.
class Timer {
 public:
  Timer(TimerList& list, std::move_only_function<void()> callback);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  /// (Re-)arms for an absolute time of the list's clock. One that is past is due at once;
  /// Nanoseconds::max() never is.
  void arm_at(Nanoseconds deadline);
  void arm_after(Nanoseconds delay);
  void cancel();
  bool armed() const;
  /// The absolute deadline; Nanoseconds::max() when not armed.
  Nanoseconds deadline() const;

 private:
  friend class TimerList;
  struct State;
  std::shared_ptr<State> state_;
};

/// The armed timers of one clock, served by one loop.
/// Thread: guarded by its own leaf lock, looks take none; run_expired() only by the loop that
/// serves it.
class TimerList {
 public:
  /// `on_earlier` is called (any thread, no lock held) when the earliest deadline moved forward, so
  /// that a sleeping loop looks again.
  TimerList(const Clock& clock, std::move_only_function<void()> on_earlier);
  ~TimerList();

  const Clock& clock() const noexcept;
  /// Host time until the earliest timer: zero if due, Nanoseconds::max() if none can come due.
  Nanoseconds host_time_until_next() const;
  /// The earliest deadline on the list's own clock; Nanoseconds::max() when none is armed.
  Nanoseconds next_deadline() const;
  /// Runs every timer whose deadline is at or before now(), earliest first, and of equal ones the
  /// one armed first. What their callbacks arm waits for the next call. True if any ran.
  /// A callback may call it again (a nested poll does): that one goes on where this one stands.
  bool run_expired();

 private:
  friend class Timer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhea
