// VmClock: the guest's time, which stops when the guest stops.
#pragma once

#include <atomic>
#include <cstdint>

#include "util/bql.h"
#include "util/clock.h"
#include "util/error.h"

namespace rhea {
class TimerList;
}

namespace rhea::vmm {

struct VmClockState {
  int64_t nanoseconds = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("nanoseconds", s.nanoseconds);
  }
};

/// Starts at 0, standing still. While running it follows the host's monotonic time; stopped, it
/// keeps its value, and goes on from there. A stepped clock (qtest) never follows the host: it
/// moves only when it is told to.
///
/// Thread: now() from any thread, without a lock; all else under the BQL.
/// Invariants: never goes back.
class VmClock final : public Clock {
 public:
  enum class Mode : uint8_t { kFollowsHost, kStepped };

  /// The name of its state in a stream.
  static constexpr const char* kSection = "vm-clock";

  VmClock(const Clock& host, Mode mode) : host_(host), mode_(mode) {}

  Nanoseconds now() const noexcept override;
  Nanoseconds host_time_until(Nanoseconds deadline) const noexcept override;

  /// Lets time pass, or holds it. Telling twice is once. No effect on a stepped clock. Whoever
  /// sleeps on this clock's timers must look again after start().
  void start() REQUIRES(bql);
  void stop() REQUIRES(bql);
  Mode mode() const noexcept { return mode_; }
  const Clock& host() const noexcept { return host_; }

  VmClockState save() const { return {.nanoseconds = now().count()}; }
  /// Errors: kCorrupt: no time that a clock shows, or one that is past.
  Result<void> check(const VmClockState& state) const;
  /// Takes a checked time. Only while it stands still.
  void load(const VmClockState& state) REQUIRES(bql);

  /// Moves a stepped clock forward to `target`, stopping at each timer's deadline on the way to run
  /// what is due, as if time had passed. Does nothing if `target` is past. `timers` is of this
  /// clock.
  void step_to(Nanoseconds target, TimerList& timers) REQUIRES(bql);

 private:
  // One word, so that a reader sees both halves of a change: the low bit says whether time runs,
  // the rest is the offset to host time (running) or the time itself (standing), in nanoseconds.
  static constexpr int64_t kRunning = 1;
  static constexpr int64_t pack(Nanoseconds t, int64_t running) { return t.count() * 2 | running; }
  static constexpr Nanoseconds unpack(int64_t word) { return Nanoseconds(word >> 1); }

  const Clock& host_;
  const Mode mode_;
  std::atomic<int64_t> state_{pack(Nanoseconds(0), 0)};
};

}  // namespace rhea::vmm
