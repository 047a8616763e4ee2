// Convergence: when passes are enough, when the guest is throttled, and what is said of it.
#include "migration/convergence.h"

#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <vector>

using namespace rhea;
using namespace rhea::migration;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr uint64_t kPageBytes = 4096;

/// A pass over 1000 pages in a second, which leaves `dirty_after`.
Pass pass_that_leaves(uint64_t dirty_after) {
  return {.dirty_before = 1000,
          .dirty_after = dirty_after,
          .sent_pages = 1000,
          .sent_bytes = 1000 * kPageBytes,
          .took = seconds(1)};
}

constexpr ConvergenceLimits kOn = {
    .downtime = milliseconds(100), .auto_converge = AutoConverge::kYes, .throttle = {}};

/// What it says after each of these passes.
std::vector<unsigned> throttles(const ConvergenceLimits& limits,
                                const std::vector<uint64_t>& left) {
  Convergence convergence;
  std::vector<unsigned> percents;
  for (const uint64_t pages : left)
    percents.push_back(convergence.judge(pass_that_leaves(pages), limits).throttle_percent);
  return percents;
}

}  // namespace

TEST_CASE("Convergence: what is left is enough if it can be sent within the downtime",
          "[migration]") {
  // 1024 pages in two seconds, and another one takes 1/512 of a second: no rounding.
  const auto [left, took, enough, expected_us] =
      GENERATE(table<uint64_t, Nanoseconds, bool, double>({
          {0, seconds(2), true, 0},
          {128, seconds(2), true, 250'000},
          {129, seconds(2), false, 251'953.125},
          {129, seconds(1), true, 125'976.5625},
          {1024, seconds(256), false, 256'000'000},
      }));
  const Pass pass = {.dirty_before = 1024,
                     .dirty_after = left,
                     .sent_pages = 1024,
                     .sent_bytes = 1024 * kPageBytes,
                     .took = took};
  ConvergenceLimits limits = kOn;
  limits.downtime = milliseconds(250);
  const Verdict verdict = Convergence().judge(pass, limits);
  CHECK(verdict.enough == enough);
  CHECK(verdict.expected_downtime.count() == static_cast<int64_t>(expected_us * 1000));
  CHECK(verdict.stall.empty());
}

TEST_CASE("Convergence: a pass that took no time, or sent nothing, is judged too", "[migration]") {
  Pass pass = pass_that_leaves(1);
  pass.took = Nanoseconds(0);
  CHECK(Convergence().judge(pass, kOn).enough);
  pass.sent_bytes = 0;
  const Verdict verdict = Convergence().judge(pass, kOn);
  CHECK_FALSE(verdict.enough);
  CHECK(verdict.expected_downtime == seconds(4096));
  pass.dirty_after = uint64_t{1} << 40;
  CHECK(Convergence().judge(pass, kOn).expected_downtime == seconds(1'000'000));
}

TEST_CASE("Convergence: two passes in a row above the threshold throttle, or throttle more",
          "[migration]") {
  const auto [left, percents] = GENERATE(table<std::vector<uint64_t>, std::vector<unsigned>>({
      {{501, 501}, {0, 20}},
      {{500, 500, 500}, {0, 0, 0}},
      {{501, 500, 501, 501}, {0, 0, 0, 20}},
      {{501, 501, 501, 501, 501, 501}, {0, 20, 20, 30, 30, 40}},
      {{900, 900, 900, 400, 900, 900}, {0, 20, 20, 20, 20, 30}},
      {{900, 900, 90, 900, 900}, {0, 20, 20, 20, 30}},
  }));
  CHECK(throttles(kOn, left) == percents);
}

TEST_CASE("Convergence: the guest is not throttled without auto-converge", "[migration]") {
  ConvergenceLimits limits = kOn;
  limits.auto_converge = AutoConverge::kNo;
  CHECK(throttles(limits, {1000, 1000, 1000, 1000}) == std::vector<unsigned>{0, 0, 0, 0});
}

TEST_CASE("Convergence: the parameters say when, how much and how far", "[migration]") {
  const auto [parameters, percents] = GENERATE(table<ThrottleParameters, std::vector<unsigned>>({
      {{.trigger_threshold = 90}, {0, 0, 0, 0, 0, 0}},
      {{.trigger_threshold = 89}, {0, 20, 20, 30, 30, 40}},
      {{.initial = 98}, {0, 98, 98, 99, 99, 99}},
      {{.initial = 99, .max = 50}, {0, 50, 50, 50, 50, 50}},
      {{.increment = 99, .max = 70}, {0, 20, 20, 70, 70, 70}},
  }));
  ConvergenceLimits limits = kOn;
  limits.throttle = parameters;
  CHECK(throttles(limits, {900, 900, 900, 900, 900, 900}) == percents);
}

TEST_CASE("Convergence: parameters that change meanwhile count from the next pass on",
          "[migration]") {
  Convergence convergence;
  ConvergenceLimits limits = kOn;
  const auto next = [&] {
    return convergence.judge(pass_that_leaves(900), limits).throttle_percent;
  };
  CHECK(next() == 0);
  CHECK(next() == 20);
  limits.throttle.increment = 50;
  CHECK(next() == 20);
  CHECK(next() == 70);
  limits.throttle.max = 40;
  CHECK(next() == 40);
  limits.throttle.max = 99;
  CHECK(next() == 90);
  limits.throttle.trigger_threshold = 95;
  CHECK(next() == 90);
  CHECK(next() == 90);
}

TEST_CASE("Convergence: zero pages and compression do not make a guest look busier",
          "[migration]") {
  Pass pass = pass_that_leaves(400);
  pass.sent_bytes = 1000;  // of 4 MB
  Convergence convergence;
  convergence.judge(pass, kOn);
  const Verdict verdict = convergence.judge(pass, kOn);
  CHECK_FALSE(verdict.enough);
  CHECK(verdict.throttle_percent == 0);
}

TEST_CASE("Convergence: a stall says what goes on and what would help", "[migration]") {
  Convergence convergence;
  ConvergenceLimits limits = kOn;
  limits.throttle.max = 25;
  Pass pass = pass_that_leaves(25'600);
  pass.dirty_before = pass.sent_pages = 25'600;
  pass.sent_bytes = uint64_t{100} << 20;
  const auto stall = [&] { return convergence.judge(pass, limits).stall; };
  limits.auto_converge = AutoConverge::kNo;
  CHECK(stall().empty());  // there has been one pass
  CHECK(stall() ==
        "the guest writes 100 MiB/s to other pages, the connection carries 100 MiB/s: a "
        "downtime-limit of 1000 ms would end it, or more bandwidth, or auto-converge, which slows "
        "the guest");
  limits.auto_converge = AutoConverge::kYes;
  CHECK_THAT(stall(), Catch::EndsWith("or more bandwidth, or a guest that writes less"));
  CHECK_THAT(stall(), Catch::EndsWith("; auto-converge throttles it by 20 % now"));
  CHECK_THAT(stall(), Catch::StartsWith("the guest writes 100 MiB/s"));
  CHECK_THAT(stall(), Catch::EndsWith("; auto-converge throttles it by 25 % now, the most it may"));
  pass.dirty_after = 23'039;
  CHECK(stall().empty());
  pass.dirty_after = 23'040;
  CHECK_FALSE(stall().empty());
}

TEST_CASE("Convergence: how fast a pass was is told in bytes and in pages", "[migration]") {
  Convergence convergence;
  Pass pass = pass_that_leaves(0);
  pass.took = seconds(2);
  pass.sent_bytes = 100 * kPageBytes;  // the rest were zeros
  const Verdict verdict = convergence.judge(pass, kOn);
  CHECK(verdict.bytes_per_s == 50 * kPageBytes);
  CHECK(verdict.pages_per_s == 500);
}
