// Task management and removal of a SCSI bus, with units that hold what they are told to hold.
#include <catch2/catch.hpp>
#include <chrono>
#include <optional>
#include <utility>

#include "devices/scsi/scsi_bus.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/scsi_bus_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;
using Fixture = ScsiBusFixture;
using std::chrono_literals::operator""ms;

TEST_CASE("ScsiBus: aborting a task ends that one, and waits for it", "[scsi][tmf]") {
  Fixture f;
  FakeUnit& unit = f.add_ready(0);
  f.add_ready(1);
  Command other(f, FakeUnit::kStuck, {}, 1), meant(f, FakeUnit::kStuck, {}, 2);
  Command elsewhere(f, FakeUnit::kStuck, {.lun = 1}, 2);
  settle(f);
  CHECK(f.bus().query({}, TaskScope::kTask, 2) == TaskResult::kSucceeded);
  Management abort(f, abort_task({}, 2));
  settle(f);
  CHECK_FALSE(abort.result.has_value());
  CHECK(meant.request.cancelled());
  CHECK_FALSE(other.request.cancelled());
  CHECK_FALSE(elsewhere.request.cancelled());
  // One that comes later under the same name is another.
  Command later(f, FakeUnit::kPark, {}, 2);
  settle(f);
  CHECK_FALSE(later.request.cancelled());
  unit.let_go();
  REQUIRE(f.until([&] { return abort.result.has_value(); }));
  CHECK(abort.result == TaskResult::kComplete);
  CHECK(meant.outcome->end == End::kAborted);
  CHECK(other.outcome->end == End::kCompleted);
  CHECK_FALSE(elsewhere.done());
  CHECK(f.bus().query({}, TaskScope::kTask, 2) == TaskResult::kComplete);
  f.let_all_go();
  REQUIRE(f.until([&] { return later.done() && elsewhere.done(); }));
}

TEST_CASE("ScsiBus: two functions that cancel the same tasks both wait for them", "[scsi][tmf]") {
  Fixture f;
  FakeUnit& unit = f.add_ready(0);
  Command one(f, FakeUnit::kStuck, {}, 1), two(f, FakeUnit::kStuck, {}, 2);
  settle(f);
  Management first(f, abort_task({}, 1));
  Management all(f, abort_all({}));
  Management reset(f, reset_target({}));
  Management unknown(f, abort_task({}, 77));
  settle(f);
  CHECK(unknown.result == TaskResult::kComplete);
  CHECK_FALSE(first.result.has_value());
  CHECK_FALSE(all.result.has_value());
  CHECK_FALSE(reset.result.has_value());
  unit.let_go();
  REQUIRE(f.until([&] { return first.result && all.result && reset.result; }));
  CHECK(one.outcome->end == End::kAborted);  // the first reason stands
  CHECK(two.outcome->end == End::kAborted);
}

TEST_CASE("ScsiBus: what is parked is woken by whatever cancels it", "[scsi][tmf]") {
  Fixture f;
  FakeUnit& unit = f.add_ready(0);
  const auto ends_with = [&](Management::Function function) {
    Command parked(f, FakeUnit::kPark, {}, 1);
    settle(f);
    CHECK(unit.waiting() == 1);
    Management management(f, std::move(function));
    REQUIRE(f.until([&] { return management.result.has_value() && parked.done(); }));
    CHECK(parked.request.parks == 1);
    CHECK(parked.request.unparks == 1);
    return parked.outcome->end;
  };
  CHECK(ends_with(abort_task({}, 1)) == End::kAborted);
  CHECK(ends_with(abort_all({})) == End::kAborted);
  CHECK(unit.resets == 0);
  CHECK(ends_with(reset_unit({})) == End::kReset);
  CHECK(unit.resets == 1);
  CHECK(f.next_attention() == sense::kDeviceReset);
  CHECK(ends_with(reset_target({.lun = 9})) == End::kReset);
  CHECK(unit.resets == 2);
  CHECK(f.next_attention() == sense::kNexusLoss);
  CHECK(ends_with([](ScsiBus& bus, Co&) {
          bus.reset();
          return TaskResult::kComplete;
        }) == End::kReset);
  CHECK(f.next_attention() == sense::kBusReset);
  CHECK(ends_with([](ScsiBus& bus, Co&) {
          bus.cancel(End::kReset, [](const ScsiRequest& request) { return request.tag == 2; });
          bus.cancel(End::kReset, [](const ScsiRequest& request) { return request.tag == 1; });
          return TaskResult::kComplete;
        }) == End::kReset);
  CHECK(f.next_attention() == sense::kNone);
}

TEST_CASE("ScsiBus: task management says what is not there", "[scsi][tmf]") {
  Fixture f;
  f.add_ready(0);
  const auto result_of = [&](Management::Function function) {
    Management management(f, std::move(function));
    REQUIRE(f.until([&] { return management.result.has_value(); }));
    return *management.result;
  };
  const ScsiAddress lun{.lun = 1}, target{.target = 1}, known{.lun = 0xc101};
  for (const auto& [address, result] :
       {std::pair{lun, TaskResult::kIncorrectLun}, std::pair{target, TaskResult::kNoTarget},
        std::pair{known, TaskResult::kComplete}, std::pair{ScsiAddress{}, TaskResult::kComplete}}) {
    CHECK(f.bus().find_unit(address) == result);
    CHECK(f.bus().query(address, TaskScope::kTaskSet, 0) == result);
    CHECK(result_of(abort_task(address, 1)) == result);
    CHECK(result_of(abort_all(address)) == result);
    CHECK(result_of(reset_unit(address)) == result);
  }
  CHECK(result_of(reset_target(lun)) == TaskResult::kComplete);
  CHECK(result_of(reset_target(target)) == TaskResult::kNoTarget);
}

TEST_CASE("ScsiBus: a unit leaves when its requests have ended, and is found no more meanwhile",
          "[scsi]") {
  Fixture f;
  FakeUnit& unit = f.add_ready(0);
  f.add_ready(1);
  Command parked(f, FakeUnit::kPark);
  Command stuck(f, FakeUnit::kStuck);
  settle(f);
  std::optional<ScsiOutcome> late;
  std::optional<TaskResult> managed;
  FakeRequest request({kTestUnitReady});
  f.spawn([&](Co& co) {
    // Runs while main waits: the unit is leaving.
    while (!stuck.request.cancelled()) co.reschedule();
    late = f.bus().execute(co, {}, request);
    managed = f.bus().co_abort(co, {}, TaskScope::kTaskSet, 0);
    unit.let_go();
  });
  REQUIRE(f.remove(unit).has_value());
  REQUIRE(f.until([&] { return parked.done() && stuck.done(); }));
  CHECK(parked.outcome->end == End::kAborted);
  CHECK(stuck.outcome->end == End::kAborted);
  CHECK(late->sense == sense::kLunNotSupported);
  CHECK(managed == TaskResult::kIncorrectLun);
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+1", "-0"});
}

TEST_CASE("ScsiBus: a unit whose request does not end stays and goes on", "[scsi]") {
  test::Watchdog watchdog("a unit that does not leave", std::chrono::minutes(1));
  Fixture f;
  FakeUnit& unit = f.add_ready(0);
  f.outcome_of(FakeRequest({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 16));
  Command stuck(f, FakeUnit::kStuck);
  Management reset(f, reset_unit({}));
  settle(f);
  const auto removed = f.remove(unit, 20ms);
  REQUIRE_FALSE(removed.has_value());
  CHECK(removed.error().kind() == ErrorKind::kTimeout);
  CHECK(unit.has_owner());
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+0"});
  CHECK(f.next_attention() == sense::kDeviceReset);
  CHECK(f.next_attention() == sense::kLunsChanged);  // it was not there for a while
  unit.let_go();
  REQUIRE(f.until([&] { return stuck.done() && reset.result.has_value(); }));
  CHECK(stuck.outcome->end == End::kReset);
  REQUIRE(f.remove(unit).has_value());
}
