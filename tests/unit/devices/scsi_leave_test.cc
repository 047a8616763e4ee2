// Units that leave a bus while main goes on with other things.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "devices/scsi/scsi_bus.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/scsi_bus_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

namespace {

constexpr auto kPatience = std::chrono::seconds(120);

/// With a unit at LUN 0 that has a request under way, which only the host ends; LUN 1 has none.
class Fixture : public ScsiBusFixture {
 public:
  Fixture() {
    bql.assert_held();
    settle(*this);
  }

  void prepare() {
    bql.assert_held();
    bus().prepare_to_leave(unit, [this] { ++looks; });
  }
  bool idle() {
    bql.assert_held();
    return bus().idle(unit);
  }
  void stay() {
    bql.assert_held();
    bus().stay(unit);
  }
  Result<void> leave() {
    bql.assert_held();
    return bus().leave(unit, Nanoseconds{0});
  }
  void turn_until_looked() {
    bql.assert_held();
    const unsigned before = looks;
    while (looks == before) loop().turn();
  }

  FakeUnit& unit = add_ready(0);
  FakeUnit& other = add_ready(1);
  Command stuck{*this, FakeUnit::kStuck};
  unsigned looks = 0;
  Watchdog watchdog{"a unit that leaves", kPatience};
};

const std::vector<std::string> kBothCame{"+0", "+1"};

}  // namespace

TEST_CASE("ScsiBus: main is told when what a leaving unit had under way has ended", "[scsi]") {
  Fixture f;
  f.prepare();
  CHECK_FALSE(f.idle());
  CHECK(f.leave().error().kind() == ErrorKind::kTimeout);
  // It is out of sight; whoever is beside it is not concerned.
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady})).sense == sense::kLunNotSupported);
  CHECK(f.bus().find_unit({}) == TaskResult::kIncorrectLun);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), {.lun = 1}).status == ScsiStatus::kGood);
  CHECK(f.listener.seen == kBothCame);
  f.unit.let_go();
  f.turn_until_looked();
  CHECK(f.stuck.done());
  REQUIRE(f.idle());
  REQUIRE(f.leave().has_value());
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+1", "-0"});
}

TEST_CASE("ScsiBus: main is told of a leaving unit that has nothing under way", "[scsi]") {
  Fixture f;
  f.unit.let_go();
  REQUIRE(f.until([&] { return f.stuck.done(); }));
  f.prepare();
  CHECK(f.looks == 0);  // never by who asks
  f.turn_until_looked();
  REQUIRE(f.leave().has_value());
}

TEST_CASE("ScsiBus: a unit that stays is told of like one that comes", "[scsi]") {
  Fixture f;
  CHECK(f.outcome_of(FakeRequest({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 32}, 32)).transferred == 24);
  f.prepare();
  // Who looks now does not see it.
  CHECK(f.outcome_of(FakeRequest({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 32}, 32)).transferred == 16);
  f.stay();
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+1", "+0"});
  CHECK(f.next_attention() == sense::kLunsChanged);
  CHECK(f.next_attention({.lun = 1}) == sense::kLunsChanged);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady})).status == ScsiStatus::kGood);
  // Nobody looks for it any more; it may be asked to leave again.
  const unsigned before = f.looks;
  f.unit.let_go();
  REQUIRE(f.until([&] { return f.stuck.done(); }));
  settle(f);
  CHECK(f.looks == before);
  f.prepare();
  f.turn_until_looked();
  REQUIRE(f.leave().has_value());
}

TEST_CASE("ScsiBus: a target's reset waits for each request, those of a leaving unit too",
          "[scsi][tmf]") {
  Fixture f;
  Command others(f, FakeUnit::kStuck, {.lun = 1});
  settle(f);
  f.prepare();
  Management reset(f, reset_target({.lun = 1}));
  settle(f);
  f.unit.let_go();
  REQUIRE(f.until([&] { return f.stuck.done(); }));
  settle(f);
  CHECK_FALSE(reset.result.has_value());  // the other's has not ended
  f.other.let_go();
  REQUIRE(f.until([&] { return reset.result.has_value(); }));
  CHECK(others.outcome->end == End::kReset);
  CHECK(f.stuck.outcome->end == End::kAborted);
  REQUIRE(f.idle());
  REQUIRE(f.leave().has_value());
}

TEST_CASE("ScsiBus: a target's reset that waits for one unit does not keep another",
          "[scsi][tmf]") {
  Fixture f;
  Management reset(f, reset_target({}));
  settle(f);
  CHECK_FALSE(reset.result.has_value());
  bql.assert_held();
  REQUIRE(f.bus().remove(f.other, Nanoseconds{0}).has_value());
  f.unit.let_go();
  REQUIRE(f.until([&] { return reset.result.has_value(); }));
}
