#include "migration/bandwidth_limit.h"

#include <algorithm>

#include "util/fd.h"

namespace rhea::migration {
namespace {

// What may be sent at once after an idle while, as time at the given rate.
constexpr double kBurstSeconds = 0.05;

double seconds(Nanoseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

BandwidthLimit::BandwidthLimit(const Clock& clock, uint64_t bytes_per_second)
    : clock_(clock), bucket_(Bucket{.rate = bytes_per_second, .filled_at = clock.now()}) {}

void BandwidthLimit::fill(Bucket& bucket) const {
  const Nanoseconds now = clock_.now();
  const double rate = static_cast<double>(bucket.rate);
  const double gained = seconds(now - bucket.filled_at) * rate;
  bucket.tokens = std::min(bucket.tokens + gained, rate * kBurstSeconds);
  bucket.filled_at = now;
}

void BandwidthLimit::set(uint64_t bytes_per_second) {
  bucket_.with([&](Bucket& bucket) {
    bucket.rate = bytes_per_second;
    bucket.tokens = 0;
    bucket.filled_at = clock_.now();
    for (int waker : bucket.wakers) signal_eventfd(waker);
  });
}

uint64_t BandwidthLimit::bytes_per_second() const {
  return bucket_.with([](const Bucket& bucket) { return bucket.rate; });
}

Nanoseconds BandwidthLimit::delay() {
  return bucket_.with([&](Bucket& bucket) -> Nanoseconds {
    if (bucket.rate == 0) return Nanoseconds::zero();
    fill(bucket);
    if (bucket.tokens >= 0) return Nanoseconds::zero();
    const double wait_s = -bucket.tokens / static_cast<double>(bucket.rate);
    // Rounded up: a sender that wakes too early would only come back.
    const auto wait = Nanoseconds(static_cast<int64_t>(std::min(wait_s, 1e9) * 1e9) + 1);
    return clock_.host_time_until(bucket.filled_at + wait);
  });
}

void BandwidthLimit::charge(uint64_t bytes) {
  bucket_.with([&](Bucket& bucket) {
    if (bucket.rate != 0) bucket.tokens -= static_cast<double>(bytes);
  });
}

void BandwidthLimit::add_waker(int eventfd) {
  bucket_.with([&](Bucket& bucket) { bucket.wakers.push_back(eventfd); });
}

void BandwidthLimit::remove_waker(int eventfd) {
  bucket_.with([&](Bucket& bucket) { std::erase(bucket.wakers, eventfd); });
}

}  // namespace rhea::migration
