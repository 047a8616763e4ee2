#include "block/throttle_limits.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

namespace rhea::block {
namespace {

constexpr std::array<std::string_view, ThrottleLimits::kKinds> kNames{
    "bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"};
constexpr uint64_t kMost = 1'000'000'000'000'000;
/// Without bursts, what may go at once: the tenth of a second's worth.
constexpr double kSlack = 0.1;

bool is_iops(unsigned kind) { return kind >= ThrottleLimits::kIopsTotal; }

/// The buckets that a request of this direction pours into.
std::array<unsigned, 4> kinds_of(ThrottleDirection direction) {
  const bool read = direction == ThrottleDirection::kRead;
  return {ThrottleLimits::kBpsTotal, read ? ThrottleLimits::kBpsRead : ThrottleLimits::kBpsWrite,
          ThrottleLimits::kIopsTotal,
          read ? ThrottleLimits::kIopsRead : ThrottleLimits::kIopsWrite};
}

Result<void> take_number(OptionReader& reader, const std::string& name, uint64_t& value) {
  if (const auto given = TRY(reader.take_uint(name))) value = *given;
  return ok();
}

Result<void> take_all(OptionReader& reader, const std::string& prefix, ThrottleLimits& limits) {
  for (unsigned kind = 0; kind < ThrottleLimits::kKinds; ++kind) {
    const std::string name = prefix + std::string(kNames[kind]);
    ThrottleLimit& limit = limits.limits[kind];
    TRY(take_number(reader, name, limit.average));
    TRY(take_number(reader, name + "-max", limit.burst));
    TRY(take_number(reader, name + "-max-length", limit.burst_seconds));
  }
  return take_number(reader, prefix + "iops-size", limits.iops_size);
}

Error invalid(std::string_view text) {
  return Error(ErrorKind::kInvalidArgument, std::string(text));
}

Result<void> check_one(const ThrottleLimit& limit) {
  if (limit.average > kMost || limit.burst > kMost) {
    return fail(ErrorKind::kInvalidArgument, "bps/iops/max values must be within [0, {}]", kMost);
  }
  if (limit.burst_seconds == 0) return invalid("the burst length cannot be 0");
  if (limit.burst_seconds > 1 && limit.burst == 0) {
    return invalid("burst length set without burst rate");
  }
  if (limit.burst != 0 && limit.burst_seconds > kMost / limit.burst) {
    return invalid("burst length too high for this burst rate");
  }
  if (limit.burst != 0 && limit.average == 0) {
    return invalid("bps_max/iops_max require corresponding bps/iops values");
  }
  if (limit.burst != 0 && limit.burst < limit.average) {
    return invalid("bps_max/iops_max cannot be lower than bps/iops");
  }
  return ok();
}

bool used(const ThrottleLimit& limit) { return limit.average != 0 || limit.burst != 0; }

/// Seconds until a bucket that leaks at `rate` is down to `full`.
double seconds_over(double level, double full, double rate) {
  return level > full ? (level - full) / rate : 0;
}

}  // namespace

bool ThrottleLimits::unlimited() const noexcept {
  return std::ranges::all_of(limits, [](const ThrottleLimit& l) { return l.average == 0; });
}

Result<ThrottleLimits> ThrottleLimits::take(OptionReader& reader) {
  ThrottleLimits limits;
  TRY(take_all(reader, "x-", limits));
  if (auto object = TRY(reader.take_object("limits"))) {
    TRY(take_all(*object, "", limits));
    TRY(object->finish());
  }
  TRY(limits.check());
  return limits;
}

Result<void> ThrottleLimits::check() const {
  for (const unsigned total : {kBpsTotal, kIopsTotal}) {
    if (used(limits[total]) && (used(limits[total + 1]) || used(limits[total + 2]))) {
      return invalid(
          "bps/iops/max total values and read/write values cannot be used at the same "
          "time");
    }
  }
  for (const ThrottleLimit& limit : limits) TRY(check_one(limit));
  const bool counts_operations =
      used(limits[kIopsTotal]) || used(limits[kIopsRead]) || used(limits[kIopsWrite]);
  if (iops_size != 0 && !counts_operations) {
    return invalid("iops size requires an iops value to be set");
  }
  return ok();
}

void ThrottleBuckets::leak(Nanoseconds now) {
  const double seconds = static_cast<double>(std::max<int64_t>((now - last_).count(), 0)) * 1e-9;
  last_ = now;
  for (unsigned kind = 0; kind < ThrottleLimits::kKinds; ++kind) {
    const ThrottleLimit& limit = limits_.limits[kind];
    Bucket& bucket = buckets_[kind];
    // What a limit that is gone had in it says nothing about the next one.
    if (limit.average == 0) bucket = {};
    bucket.level = std::max(bucket.level - static_cast<double>(limit.average) * seconds, 0.0);
    bucket.burst_level =
        std::max(bucket.burst_level - static_cast<double>(limit.burst) * seconds, 0.0);
  }
}

Nanoseconds ThrottleBuckets::wait(ThrottleDirection direction, Nanoseconds now) {
  leak(now);
  double longest = 0;
  for (const unsigned kind : kinds_of(direction)) {
    const ThrottleLimit& limit = limits_.limits[kind];
    if (limit.average == 0) continue;
    const auto average = static_cast<double>(limit.average);
    const auto burst = static_cast<double>(limit.burst);
    const double full =
        limit.burst != 0 ? burst * static_cast<double>(limit.burst_seconds) : average * kSlack;
    longest = std::max(longest, seconds_over(buckets_[kind].level, full, average));
    if (limit.burst_seconds > 1) {
      longest = std::max(longest, seconds_over(buckets_[kind].burst_level, burst * kSlack, burst));
    }
  }
  // Rounded up, so that the wait is over when it is over; at most a day, and then looked at again.
  constexpr double kLongest = 86'400;
  return Nanoseconds(static_cast<int64_t>(std::ceil(std::min(longest, kLongest) * 1e9)));
}

void ThrottleBuckets::pour(ThrottleDirection direction, uint64_t bytes) {
  const double operations =
      limits_.iops_size != 0 && bytes > limits_.iops_size
          ? static_cast<double>(bytes) / static_cast<double>(limits_.iops_size)
          : 1;
  for (const unsigned kind : kinds_of(direction)) {
    const double units = is_iops(kind) ? operations : static_cast<double>(bytes);
    buckets_[kind].level += units;
    if (limits_.limits[kind].burst_seconds > 1) buckets_[kind].burst_level += units;
  }
}

}  // namespace rhea::block
