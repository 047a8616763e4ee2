#include "devices/guest_error.h"

#include <catch2/catch.hpp>

using namespace rhea::devices;
using namespace std::chrono_literals;

TEST_CASE("RateLimiter: a burst is let through, then nothing until the period is over",
          "[guest-error]") {
  RateLimiter limiter;
  const RateLimiter::TimePoint start{100s};
  for (uint32_t i = 0; i < RateLimiter::kBurst; ++i) CHECK(limiter.allow(start + i * 1ms));
  CHECK_FALSE(limiter.allow(start + 500ms));
  CHECK_FALSE(limiter.allow(start + 999ms));
  CHECK(limiter.allow(start + 1s));
}

TEST_CASE("GuestErrors: every mistake is counted, shown or not", "[guest-error]") {
  GuestErrors errors("dev0");
  for (uint64_t i = 0; i < 1000; ++i) errors.report(GuestError::kBadValue, i, i);
  CHECK(errors.count() == 1000);
}
