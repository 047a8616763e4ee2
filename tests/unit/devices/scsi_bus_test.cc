// Units, attentions, task management and removal of a SCSI bus, with units that hold what they are
// told to hold.
#include "devices/scsi/scsi_bus.h"

#include <fmt/format.h>

#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/scsi/unit_attentions.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/scsi_fakes.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::FakeRequest;
using test::FakeUnit;
using End = ScsiOutcome::End;
using TaskResult = ScsiBus::TaskResult;
using TaskScope = ScsiBus::TaskScope;
using std::chrono_literals::operator""ms;

namespace {

constexpr uint8_t kTestUnitReady = 0x00, kRequestSense = 0x03, kInquiry = 0x12, kReportLuns = 0xa0;

/// What the adapter would hear.
struct Listener final : ScsiBusListener {
  void unit_added(const ScsiAddress& address) override REQUIRES(bql) {
    seen.push_back(fmt::format("+{}", address.lun));
  }
  void unit_removed(const ScsiAddress& address) override REQUIRES(bql) {
    seen.push_back(fmt::format("-{}", address.lun));
  }
  void unit_changed(const ScsiAddress& address, const ScsiSense&) override {
    seen.push_back(fmt::format("!{}", address.lun));
  }
  std::vector<std::string> seen;
};

/// A bus whose requests run on main's block context.
class Fixture {
 public:
  // Unchecked: the destructor gives the BQL back.
  Fixture() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    bus_.emplace("scsi0.0", ScsiBus::Limits{}, *loop_);
    bus_->set_listener(&listener);
  }
  // Unchecked: the constructor took the BQL.
  ~Fixture() NO_THREAD_SAFETY_ANALYSIS {
    let_all_go();  // what a failed test left waiting would hold up the end
    for (const auto& unit : bus_->units()) MUST(bus_->remove(*unit));
    bus_.reset();
    loop_.reset();
    bql.unlock();
  }

  ScsiBus& bus() { return *bus_; }
  MainLoop& loop() { return *loop_; }
  FakeUnit& add(uint16_t lun, uint8_t target = 0) {
    bql.assert_held();
    auto unit = std::make_shared<FakeUnit>(ScsiAddress{.target = target, .lun = lun});
    FakeUnit& made = *unit;
    REQUIRE(bus_->add(std::move(unit)).has_value());
    return made;
  }
  /// One that has told of its power-on.
  FakeUnit& add_ready(uint16_t lun, uint8_t target = 0) {
    FakeUnit& unit = add(lun, target);
    CHECK(outcome_of(FakeRequest({kTestUnitReady}), unit.address()).sense == sense::kPowerOn);
    return unit;
  }
  void let_all_go() {
    bql.assert_held();
    for (const auto& unit : bus_->units()) static_cast<FakeUnit&>(*unit).let_go();
  }
  Result<void> remove(ScsiUnit& unit, Nanoseconds patience = ScsiBus::kPatience) {
    bql.assert_held();
    return bus_->remove(unit, patience);
  }
  template <class F>
  bool until(F&& done) {
    bql.assert_held();
    return loop_->waiter().until(
        loop_->gs(),
        [&] {
          const bool now = done();
          if (!now) loop_->block().notify();
          return now;
        },
        std::chrono::seconds(20));
  }
  /// Runs `body` in a coroutine.
  template <class F>
  void spawn(F&& body) {
    REQUIRE(rhea::spawn(loop_->block(), std::forward<F>(body)).has_value());
  }
  ScsiOutcome outcome_of(FakeRequest& request, const ScsiAddress& address = {}) {
    std::optional<ScsiOutcome> outcome;
    spawn([&](Co& co) { outcome = bus_->execute(co, address, request); });
    REQUIRE(until([&] { return outcome.has_value(); }));
    return *outcome;
  }
  ScsiOutcome outcome_of(FakeRequest&& request, const ScsiAddress& address = {}) {
    return outcome_of(request, address);
  }
  /// What a unit tells next, without a command that it would carry out.
  ScsiSense next_attention(const ScsiAddress& address = {}) {
    const ScsiOutcome outcome = outcome_of(FakeRequest({kTestUnitReady}), address);
    return outcome.status == ScsiStatus::kCheckCondition ? outcome.sense : sense::kNone;
  }

  Listener listener;

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::optional<ScsiBus> bus_;
};

/// A command under way.
class Command {
 public:
  Command(Fixture& f, uint8_t opcode, const ScsiAddress& address = {}, uint64_t tag = 0)
      : request({opcode}, 0, tag) {
    f.spawn([this, &f, address](Co& co) { outcome = f.bus().execute(co, address, request); });
  }
  bool done() const { return outcome.has_value(); }

  FakeRequest request;
  std::optional<ScsiOutcome> outcome;
};

/// A task management function under way.
class Management {
 public:
  using Function = std::move_only_function<TaskResult(ScsiBus&, Co&)>;
  Management(Fixture& f, Function function) : function_(std::move(function)) {
    f.spawn([this, &f](Co& co) { result = function_(f.bus(), co); });
  }
  std::optional<TaskResult> result;

 private:
  Function function_;
};

auto abort_task(const ScsiAddress& address, uint64_t tag) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_abort(co, address, TaskScope::kTask, tag); };
}
auto abort_all(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_abort(co, address, TaskScope::kTaskSet, 0); };
}
auto reset_unit(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_reset_unit(co, address); };
}
auto reset_target(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_reset_target(co, address); };
}

/// Some turns, in which what can end ends.
void settle(Fixture& f) {
  int left = 10;
  REQUIRE(f.until([&] { return left-- == 0; }));
}

std::vector<uint8_t> bytes(const FakeRequest& request, size_t size) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i < size; ++i) out.push_back(std::to_integer<uint8_t>(request.memory[i]));
  return out;
}

/// The LUNs that a REPORT LUNS lists, as they are written.
std::vector<unsigned> report_luns(Fixture& f, uint8_t select = 0, const ScsiAddress& to = {}) {
  FakeRequest request({kReportLuns, 0, select, 0, 0, 0, 0, 0, 1, 0}, 256);
  const ScsiOutcome outcome = f.outcome_of(request, to);
  REQUIRE(outcome.end == End::kCompleted);
  REQUIRE(outcome.status == ScsiStatus::kGood);
  const auto data = bytes(request, outcome.transferred);
  std::vector<unsigned> luns;
  REQUIRE(data.size() >= 8);
  CHECK(data[3] == data.size() - 8);
  for (size_t at = 8; at < data.size(); at += 8) {
    luns.push_back(data[at] << 8 | data[at + 1]);
    CHECK(std::all_of(&data[at + 2], &data[at] + 8, [](uint8_t byte) { return byte == 0; }));
  }
  return luns;
}

}  // namespace

TEST_CASE("UnitAttentions: conditions are told one by one, first come, first served", "[scsi]") {
  UnitAttentions attentions;
  CHECK(attentions.take() == sense::kPowerOn);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kMediumChanged);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kLunsChanged);
  attentions.forget(sense::kLunsChanged);
  CHECK(attentions.take() == sense::kCapacityChanged);
  CHECK(attentions.take() == sense::kMediumChanged);
  CHECK(attentions.take() == std::nullopt);
}

TEST_CASE("UnitAttentions: a reset clears what waits, and the strongest is told alone", "[scsi]") {
  UnitAttentions attentions;
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kBusReset);
  CHECK(attentions.take() == sense::kPowerOn);
  CHECK(attentions.empty());
  attentions.establish(sense::kMediumChanged);
  attentions.establish(sense::kNexusLoss);
  attentions.establish(sense::kCapacityChanged);
  attentions.establish(sense::kDeviceReset);
  attentions.establish(sense::kNexusLoss);
  attentions.establish(sense::kMediumChanged);
  CHECK(attentions.take() == sense::kDeviceReset);
  CHECK(attentions.take() == sense::kMediumChanged);
  CHECK(attentions.empty());
}

TEST_CASE("ScsiBus: a unit goes where the user says, and else where QEMU puts it", "[scsi]") {
  Fixture f;
  bql.assert_held();
  const auto choose = [&](const ScsiBus::Place& place) {
    bql.assert_held();
    return f.bus().choose(place);
  };
  const auto error = [&](const ScsiBus::Place& place) { return choose(place).error().message(); };
  CHECK(*choose({}) == ScsiAddress{});
  f.add(0);
  f.add(0, 1);
  f.add(1, 1);
  CHECK(*choose({}) == ScsiAddress{.target = 2});
  CHECK(*choose({.lun = 5}) == ScsiAddress{.lun = 5});
  CHECK(*choose({.target = 1}) == ScsiAddress{.target = 1, .lun = 2});
  CHECK(*choose({.target = 255, .lun = 16383}) == ScsiAddress{.target = 255, .lun = 16383});
  CHECK(error({.target = 1, .lun = 1}) == "lun already used by 'lun1'");
  CHECK(error({.channel = 1}) == "bad scsi channel id: 1");
  CHECK(error({.target = 256}) == "bad scsi device id: 256");
  CHECK(error({.target = 1, .lun = 16384}) == "bad scsi device lun: 16384");
  CHECK(f.bus().add(std::make_shared<FakeUnit>(ScsiAddress{})).error().kind() ==
        ErrorKind::kExists);
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "+0", "+1"});
}

TEST_CASE("ScsiBus: a bus whose targets are all taken says so", "[scsi]") {
  Fixture f;
  bql.assert_held();
  for (unsigned target = 0; target < 256; ++target) f.add(0, static_cast<uint8_t>(target));
  CHECK(f.bus().choose({}).error().message() == "no free target");
  CHECK(*f.bus().choose({.lun = 1}) == ScsiAddress{.lun = 1});
  CHECK(f.bus().units().size() == 256);
}

TEST_CASE("ScsiBus: a target answers where it has no unit, and nobody answers for no target",
          "[scsi]") {
  Fixture f;
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady})).end == End::kNoTarget);
  CHECK(f.outcome_of(FakeRequest({kReportLuns}, 16)).end == End::kNoTarget);
  f.add(3);
  const ScsiAddress absent{.lun = 1};
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), absent).sense == sense::kLunNotSupported);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), {.target = 1}).end == End::kNoTarget);

  FakeRequest inquiry({kInquiry, 0, 0, 0, 36}, 36);
  CHECK(f.outcome_of(inquiry, absent).transferred == 36);
  CHECK(bytes(inquiry, 5) == std::vector<uint8_t>{0x7f, 0, 6, 0x12, 31});
  FakeRequest pages({kInquiry, 1, 0, 0, 255}, 255);
  CHECK(f.outcome_of(pages, absent).transferred == 5);
  CHECK(bytes(pages, 5) == std::vector<uint8_t>{0x7f, 0, 0, 1, 0});
  CHECK(f.outcome_of(FakeRequest({kInquiry, 1, 0x83, 0, 36}, 36), absent).sense ==
        sense::kInvalidField);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 1, 0, 36}, 36), absent).sense ==
        sense::kInvalidField);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 0, 0, 36}, 35), absent).end == End::kOverrun);
  CHECK(f.outcome_of(FakeRequest({kInquiry, 0, 0, 0, 0}), absent).transferred == 0);

  FakeRequest sense({kRequestSense, 0, 0, 0, 18}, 18);
  CHECK(f.outcome_of(sense, absent).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3) == std::vector<uint8_t>{0x70, 0, 5});
  CHECK(bytes(sense, 13)[12] == 0x25);
}

TEST_CASE("ScsiBus: REPORT LUNS lists the units of the target, wherever it is sent", "[scsi]") {
  Fixture f;
  for (const int lun : {300, 0, 7, 255, 256, 16383}) f.add(static_cast<uint16_t>(lun));
  f.add(1, 1);
  const std::vector<unsigned> units{0, 7, 255, 0x4100, 0x412c, 0x7fff};
  CHECK(report_luns(f) == units);
  CHECK(report_luns(f, 0, {.lun = 9}) == units);
  CHECK(report_luns(f, 0, {.lun = 0xc101}) == units);
  CHECK(report_luns(f, 1) == std::vector<unsigned>{0xc101});
  auto all = units;
  all.push_back(0xc101);
  CHECK(report_luns(f, 2) == all);
  CHECK(report_luns(f, 0, {.target = 1}) == std::vector<unsigned>{1});

  const auto ends = [&](std::initializer_list<uint8_t> cdb, size_t bytes) {
    return f.outcome_of(FakeRequest(cdb, bytes));
  };
  CHECK(ends({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 15}, 16).sense == sense::kInvalidField);
  CHECK(ends({kReportLuns, 0, 3, 0, 0, 0, 0, 0, 0, 16}, 16).sense == sense::kInvalidField);
  CHECK(ends({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 17}, 16).end == End::kOverrun);
  // What there is no room for is left out; the length says what there is.
  FakeRequest cut({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 16);
  CHECK(f.outcome_of(cut).transferred == 16);
  CHECK(bytes(cut, 4) == std::vector<uint8_t>{0, 0, 0, 48});
}

TEST_CASE("ScsiBus: the well-known unit knows what it has to", "[scsi]") {
  Fixture f;
  f.add(0);
  const ScsiAddress known{.lun = 0xc101};
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), known).status == ScsiStatus::kGood);
  FakeRequest inquiry({kInquiry, 0, 0, 0, 36}, 36);
  CHECK(f.outcome_of(inquiry, known).transferred == 36);
  CHECK(bytes(inquiry, 1)[0] == 0x1e);
  FakeRequest sense({kRequestSense, 1, 0, 0, 252}, 252);
  CHECK(f.outcome_of(sense, known).transferred == 8);
  CHECK(bytes(sense, 2) == std::vector<uint8_t>{0x72, 0});
  CHECK(f.outcome_of(FakeRequest({0x28}), known).sense == sense::kInvalidOpcode);
  // It has told nothing of the unit's.
  CHECK(f.next_attention() == sense::kPowerOn);
}

TEST_CASE("ScsiBus: a unit tells its attentions before it carries out a command", "[scsi]") {
  Fixture f;
  FakeUnit& unit = f.add(0);
  // These tell nothing.
  for (const uint8_t opcode : {kInquiry, uint8_t{0x46}, uint8_t{0x4a}}) {
    CHECK(f.outcome_of(FakeRequest({opcode})).status == ScsiStatus::kGood);
  }
  report_luns(f);
  CHECK(unit.executed == 3);
  CHECK(f.next_attention() == sense::kPowerOn);
  CHECK(unit.executed == 3);
  CHECK(f.next_attention() == sense::kNone);
  CHECK(unit.executed == 4);
  unit.attention(sense::kCapacityChanged);
  unit.attention(sense::kCapacityChanged);
  CHECK(f.listener.seen == std::vector<std::string>{"+0", "!0", "!0"});
  // As data it is told as well, and then no more.
  FakeRequest sense({kRequestSense, 0, 0, 0, 18}, 18);
  CHECK(f.outcome_of(sense).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3)[2] == 6);
  CHECK(bytes(sense, 13)[12] == 0x2a);
  CHECK(f.outcome_of(sense).status == ScsiStatus::kGood);
  CHECK(bytes(sense, 3)[2] == 0);
  CHECK(f.next_attention() == sense::kNone);
  // A REQUEST SENSE that has no room tells nothing.
  unit.attention(sense::kMediumChanged);
  CHECK(f.outcome_of(FakeRequest({kRequestSense, 0, 0, 0, 18}, 17)).end == End::kOverrun);
  CHECK(f.next_attention() == sense::kMediumChanged);
}

TEST_CASE("ScsiBus: the list of LUNs has changed for whoever has read it", "[scsi]") {
  Fixture f;
  FakeUnit& first = f.add_ready(0);
  f.add_ready(0, 1);
  f.add_ready(1);
  CHECK(f.next_attention() == sense::kNone);  // nobody has read it
  report_luns(f);
  FakeUnit& second = f.add_ready(2);
  CHECK(f.next_attention({.target = 1}) == sense::kNone);
  CHECK(f.next_attention({.lun = 1}) == sense::kLunsChanged);
  CHECK(f.next_attention({.lun = 1}) == sense::kNone);
  report_luns(f, 0, {.lun = 1});
  CHECK(f.next_attention() == sense::kNone);  // told by REPORT LUNS, of whatever unit
  REQUIRE(f.remove(second).has_value());
  CHECK(f.next_attention() == sense::kLunsChanged);
  CHECK(f.outcome_of(FakeRequest({kTestUnitReady}), {.lun = 2}).sense == sense::kLunNotSupported);
  // A driver that comes has read nothing.
  f.bus().reset();
  CHECK(first.resets == 1);
  CHECK(f.next_attention() == sense::kBusReset);
  f.add(2);
  CHECK(f.next_attention() == sense::kNone);
}

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
  report_luns(f);
  Command stuck(f, FakeUnit::kStuck);
  Management reset(f, reset_unit({}));
  settle(f);
  const auto removed = f.remove(unit, 20ms);
  REQUIRE_FALSE(removed.has_value());
  CHECK(removed.error().kind() == ErrorKind::kTimeout);
  CHECK(unit.has_owner());
  CHECK(f.listener.seen == std::vector<std::string>{"+0"});
  CHECK(f.next_attention() == sense::kDeviceReset);
  CHECK(f.next_attention() == sense::kNone);  // the list has not changed
  unit.let_go();
  REQUIRE(f.until([&] { return stuck.done() && reset.result.has_value(); }));
  CHECK(stuck.outcome->end == End::kReset);
  REQUIRE(f.remove(unit).has_value());
}
