// ThrottleLimits and ThrottleBuckets: how much I/O there may be, and how much there was.
#pragma once

#include <array>
#include <cstdint>

#include "util/clock.h"
#include "util/error.h"
#include "util/option_reader.h"

namespace rhea::block {

enum class ThrottleDirection : uint8_t { kRead, kWrite };

/// One limit. Units: bytes or operations a second; seconds.
struct ThrottleLimit {
  uint64_t average = 0;  ///< 0: no limit
  uint64_t burst = 0;    ///< what is allowed for `burst_seconds`; 0: no bursts
  uint64_t burst_seconds = 1;
  friend bool operator==(const ThrottleLimit&, const ThrottleLimit&) = default;
};

/// The limits of a group, with the names and rules of QEMU's throttle-group.
struct ThrottleLimits {
  enum Kind : uint8_t { kBpsTotal, kBpsRead, kBpsWrite, kIopsTotal, kIopsRead, kIopsWrite };
  static constexpr unsigned kKinds = 6;

  std::array<ThrottleLimit, kKinds> limits{};
  /// A larger request counts as several operations; 0: never. Units: bytes.
  uint64_t iops_size = 0;

  bool unlimited() const noexcept;
  friend bool operator==(const ThrottleLimits&, const ThrottleLimits&) = default;

  /// Takes "iops-total", "bps-read-max", "iops-write-max-length", "iops-size" and the like, from
  /// the object "limits" or with the prefix "x-". Errors: numbers that make no sense, or not
  /// together.
  static Result<ThrottleLimits> take(OptionReader& reader);
  Result<void> check() const;
};

/// Leaky buckets, one a limit: requests pour in what they cost, time lets it out at the average
/// rate. A request may go when no bucket that it pours into is over full; it may fill it beyond
/// that, and those that follow wait the longer.
///
/// Thread: its owner's. Units: `now` is any clock that does not go back.
class ThrottleBuckets {
 public:
  /// What was poured in stays.
  void set_limits(const ThrottleLimits& limits) { limits_ = limits; }
  const ThrottleLimits& limits() const noexcept { return limits_; }

  /// How long until the next request of this direction may go; 0: now.
  Nanoseconds wait(ThrottleDirection direction, Nanoseconds now);
  void pour(ThrottleDirection direction, uint64_t bytes);

 private:
  struct Bucket {
    double level = 0;
    double burst_level = 0;  // at the rate of bursts, if those are long
  };
  void leak(Nanoseconds now);

  ThrottleLimits limits_;
  std::array<Bucket, ThrottleLimits::kKinds> buckets_{};
  Nanoseconds last_{0};
};

}  // namespace rhea::block
