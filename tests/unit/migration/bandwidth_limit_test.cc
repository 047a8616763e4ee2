#include "migration/bandwidth_limit.h"

#include <catch2/catch.hpp>

#include "tests/support/manual_clock.h"
#include "util/fd.h"

using namespace rhea;
using migration::BandwidthLimit;
using test::ManualClock;
using namespace std::chrono_literals;

TEST_CASE("BandwidthLimit: without a limit nobody waits", "[migration]") {
  ManualClock clock;
  BandwidthLimit limit(clock, 0);
  limit.charge(uint64_t{1} << 60);
  CHECK(limit.delay() == 0ns);
}

TEST_CASE("BandwidthLimit: debt is paid off at the rate", "[migration]") {
  ManualClock clock;
  BandwidthLimit limit(clock, 1000);
  CHECK(limit.delay() == 0ns);
  limit.charge(500);
  CHECK(limit.delay() > 0ns);
  clock.advance(499ms);
  CHECK(limit.delay() > 0ns);
  clock.advance(2ms);
  CHECK(limit.delay() == 0ns);
}

TEST_CASE("BandwidthLimit: idle time is saved up only for a moment", "[migration]") {
  ManualClock clock;
  BandwidthLimit limit(clock, 1000);
  clock.advance(1h);
  CHECK(limit.delay() == 0ns);
  limit.charge(51);  // a burst is 50 ms
  CHECK(limit.delay() > 0ns);
}

TEST_CASE("BandwidthLimit: over many pieces the rate comes out", "[migration]") {
  ManualClock clock;
  BandwidthLimit limit(clock, 1'000'000);
  uint64_t sent = 0;
  for (int step = 0; step < 10'000; ++step, clock.advance(1ms)) {
    while (limit.delay() == 0ns) {
      limit.charge(3000);
      sent += 3000;
    }
  }
  CHECK(sent >= 9'990'000);
  CHECK(sent <= 10'060'000);  // ten seconds, a burst and a piece
}

TEST_CASE("BandwidthLimit: a change forgives the debt and signals all who wait", "[migration]") {
  ManualClock clock;
  BandwidthLimit limit(clock, 1);
  const Fd one = MUST(make_eventfd());
  const Fd other = MUST(make_eventfd());
  limit.add_waker(one.get());
  limit.add_waker(other.get());
  limit.charge(1'000'000);
  CHECK(limit.delay() > 0ns);

  limit.remove_waker(other.get());
  limit.set(10'000);

  CHECK(limit.delay() == 0ns);
  CHECK(limit.bytes_per_second() == 10'000);
  CHECK(clear_eventfd(one.get()));
  CHECK_FALSE(clear_eventfd(other.get()));
}
