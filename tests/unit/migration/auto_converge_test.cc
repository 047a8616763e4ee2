// Auto-converge: a guest that writes faster than the channel carries is slowed until it moves, and
// runs at full speed again, however it ends.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/manual_clock.h"
#include "tests/support/sync_action.h"
#include "tests/unit/migration/engine_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using rhea::migration::test::EngineFixture;
using Strings = std::vector<std::string>;

namespace {

/// A channel that carries 1000 pages a second, and a guest that would write 1500, none of them
/// twice until all are written. Time passes as pages are sent, and only so.
class BusyGuest {
  rhea::test::ManualClock clock_;  // outlives the source

 public:
  BusyGuest() {
    f.clock = &clock_;
    f.source_options.downtime_limit = std::chrono::milliseconds(100);
    f.source_options.auto_converge = AutoConverge::kYes;
  }
  BusyGuest(const BusyGuest&) = delete;
  BusyGuest& operator=(const BusyGuest&) = delete;

  EngineFixture f;
  /// On the source's thread, behind a pass, while the guest runs.
  std::function<void(uint64_t pass)> on_pass_sent = [](uint64_t) {};

  Strings throttles() {
    Strings calls;
    std::ranges::copy_if(f.source.log, std::back_inserter(calls),
                         [](const std::string& call) { return call.starts_with("throttle"); });
    return calls;
  }

 private:
  void a_pass_is_sent() {
    const auto took = std::chrono::milliseconds(dirty_);
    clock_.advance(took);
    if (!f.source.runs) return;
    const auto ran = took * (100 - f.source.throttled) / 100;
    dirty_ = std::min(static_cast<uint64_t>(ran.count()) * 3 / 2, f.source.kPages);
    for (uint64_t i = 0; i < dirty_; ++i, ++written_)
      f.source.write(written_ % f.source.kPages, written_ + 1);
    on_pass_sent(++passes_);
  }

  uint64_t passes_ = 0, written_ = 0;
  uint64_t dirty_ = 2 * rhea::migration::test::FakeMachine::kPages;
  const rhea::test::SyncAction action_{"Source: a pass is sent", [this] { a_pass_is_sent(); }};
};

/// Far more than it takes with auto-converge.
constexpr uint64_t kManyPasses = 40;

}  // namespace

TEST_CASE("Auto-converge: without it a busy guest stays for ever", "[migration]") {
  BusyGuest guest;
  guest.f.source_options.auto_converge = AutoConverge::kNo;
  Progress last;
  guest.on_pass_sent = [&](uint64_t pass) {
    if (pass < kManyPasses) return;
    last = guest.f.progress();
    guest.f.set_downtime_limit(std::chrono::seconds(10));
  };
  guest.f.run();
  CHECK(guest.f.source.left);
  CHECK(guest.f.progress().passes == kManyPasses + 1);
  CHECK(guest.throttles().empty());
  CHECK(last.cpu_throttle_percent == 0);
  CHECK_THAT(last.stall, Catch::Contains("or auto-converge"));
}

TEST_CASE("Auto-converge: with it the guest is slowed until it moves", "[migration]") {
  BusyGuest guest;
  std::vector<unsigned> seen;
  std::string stall;
  guest.on_pass_sent = [&](uint64_t) {
    const Progress p = guest.f.progress();
    seen.push_back(p.cpu_throttle_percent);
    if (p.cpu_throttle_percent == 30) stall = p.stall;
  };
  guest.f.run();
  CHECK(guest.f.source.left);
  CHECK(guest.f.target.runs);
  CHECK(guest.f.same_ram());
  CHECK(guest.throttles() == Strings{"throttle 20", "throttle 30", "throttle 40", "throttle 50",
                                     "throttle 60", "throttle 0"});
  const Strings end(guest.f.source.log.end() - 6, guest.f.source.log.end());
  CHECK(end == Strings{"stop", "throttle 0", "save", "unlog", "unlock", "leave"});
  CHECK(seen == std::vector<unsigned>{0, 0, 0, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60});
  CHECK_THAT(stall, Catch::EndsWith("; auto-converge throttles it by 30 % now"));
  CHECK(guest.f.progress().cpu_throttle_percent == 0);
}

TEST_CASE("Auto-converge: its parameters may be changed while it runs", "[migration]") {
  BusyGuest guest;
  guest.on_pass_sent = [&](uint64_t pass) {
    if (pass == 2) guest.f.set_throttle({.initial = 90});
  };
  guest.f.run();
  CHECK(guest.f.source.left);
  CHECK(guest.throttles() == Strings{"throttle 90", "throttle 0"});
}

TEST_CASE("Auto-converge: the guest has its full speed again, however it ends", "[migration]") {
  const std::string how = GENERATE("cancelled", "stop fails", "save fails", "target dies", "gone");
  INFO(how);
  BusyGuest guest;
  EngineFixture& f = guest.f;
  f.source_options.throttle.initial = 90;
  const Error failure(ErrorKind::kInvalidArgument, "no room for it");
  if (how == "stop fails") f.source.failures.emplace("stop", failure);
  if (how == "save fails") f.source.failures.emplace("save", failure);
  bool throttled = false;
  f.on_pass = [&](uint64_t) {
    bql.assert_held();
    if (f.source.throttled == 0 || std::exchange(throttled, true)) return;
    if (how == "cancelled") f.leaving().cancel();
    if (how == "target dies") f.kill_target();
  };
  f.begin();
  if (how == "gone") {
    f.turn_until([&] { return throttled; });
    f.destroy_source();
  } else {
    f.finish();
  }
  CHECK(throttled);
  CHECK(f.source.throttled == 0);
  CHECK(guest.throttles() == Strings{"throttle 90", "throttle 0"});
  CHECK_FALSE(f.source.left);
  if (how != "gone") CHECK(f.source.runs);
}
