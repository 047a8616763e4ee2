// BandwidthLimit: how many bytes a second a migration may send, over all of its channels.
#pragma once

#include <cstdint>
#include <vector>

#include "util/clock.h"
#include "util/mutex.h"

namespace rhea::migration {

/// A token bucket with debt: a sender waits until the bucket is not empty, sends, and takes out
/// what it sent. So pieces of any size pass, and the rate is right over time.
///
/// Thread: any. Invariants: `clock` outlives it; a waker is removed before its eventfd is closed.
/// Units: bytes per second; 0 is no limit.
class BandwidthLimit {
 public:
  BandwidthLimit(const Clock& clock, uint64_t bytes_per_second);

  /// Debt from before is forgiven, and who waits looks again at once: after a change from a trickle
  /// nobody sits out the old rate.
  void set(uint64_t bytes_per_second);
  uint64_t bytes_per_second() const;

  /// How long a sender must wait from now on, in the host's time; zero: go. Nanoseconds::max() if
  /// the clock does not move by itself.
  Nanoseconds delay();
  void charge(uint64_t bytes);

  /// `eventfd` is signalled at each change of the limit.
  void add_waker(int eventfd);
  void remove_waker(int eventfd);

 private:
  struct Bucket {
    uint64_t rate = 0;
    double tokens = 0;  // bytes; negative: debt
    Nanoseconds filled_at{};
    std::vector<int> wakers{};
  };
  void fill(Bucket& bucket) const;

  const Clock& clock_;
  Guarded<Bucket> bucket_;
};

}  // namespace rhea::migration
