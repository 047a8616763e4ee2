// VcpuThrottle: has one vCPU stand still for a share of the time.
#pragma once

#include <time.h>

#include <optional>

#include "util/bql.h"
#include "util/clock.h"
#include "util/error.h"

namespace rhea::vmm {

/// Turns of a rest and a slice of running; how long the rest is makes the share. The slice is ended
/// by a timer's signal to the vCPU's thread, which interrupts KVM_RUN. Without a throttle there is
/// no timer.
///
/// Thread: BQL; rest() on the vCPU's thread. Owns: the timer.
class VcpuThrottle {
 public:
  static constexpr Nanoseconds kSlice = std::chrono::milliseconds(10);
  static constexpr unsigned kMaxPercent = 99;
  /// Beside a slice it is `percent` of the turn.
  static constexpr Nanoseconds rest_of_turn(unsigned percent) {
    return kSlice * percent / (100 - percent);
  }
  /// The thread that gets the signal, and what comes with it.
  struct Receiver {
    int thread_id = 0;
    int signal = 0;
    void* value = nullptr;
  };

  explicit VcpuThrottle(const Clock& host) : host_(host) {}
  ~VcpuThrottle();
  VcpuThrottle(const VcpuThrottle&) = delete;
  VcpuThrottle& operator=(const VcpuThrottle&) = delete;

  /// From the next rest() on, so have the thread ask: a rest that is under way gets longer or
  /// shorter, and a vCPU that was not throttled begins with one. Errors: the host has no timer
  /// left, and nothing has changed.
  Result<void> set(unsigned percent, const Receiver& receiver) REQUIRES(bql);

  /// How long the vCPU is to stand still from now on; zero: it runs until the signal comes.
  Nanoseconds rest() REQUIRES(bql);

 private:
  void arm(Nanoseconds delay) REQUIRES(bql);

  const Clock& host_;
  std::optional<timer_t> timer_;  // BQL, but for the destructor
  unsigned percent_ GUARDED_BY(bql) = 0;
  std::optional<Nanoseconds> rest_began_ GUARDED_BY(bql);  // empty: it runs
  Nanoseconds slice_ends_ GUARDED_BY(bql){0};
};

}  // namespace rhea::vmm
