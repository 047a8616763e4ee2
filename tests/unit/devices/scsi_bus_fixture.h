// A SCSI bus on main's block context, and commands and task management under way there.
#pragma once

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/devices/scsi_fakes.h"
#include "util/rcu.h"

namespace rhea::test {

using namespace devices;
using End = ScsiOutcome::End;
using TaskResult = ScsiBus::TaskResult;
using TaskScope = ScsiBus::TaskScope;

inline constexpr uint8_t kTestUnitReady = 0x00, kRequestSense = 0x03, kInquiry = 0x12,
                         kReportLuns = 0xa0;

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
class ScsiBusFixture {
 public:
  // Unchecked: the destructor gives the BQL back.
  ScsiBusFixture() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    bus_.emplace("scsi0.0", ScsiBus::Limits{}, *loop_);
    bus_->set_listener(&listener);
  }
  // Unchecked: the constructor took the BQL.
  ~ScsiBusFixture() NO_THREAD_SAFETY_ANALYSIS {
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
        std::chrono::minutes(2));
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
  Command(ScsiBusFixture& f, uint8_t opcode, const ScsiAddress& address = {}, uint64_t tag = 0)
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
  Management(ScsiBusFixture& f, Function function) : function_(std::move(function)) {
    f.spawn([this, &f](Co& co) { result = function_(f.bus(), co); });
  }
  std::optional<TaskResult> result;

 private:
  Function function_;
};

inline auto abort_task(const ScsiAddress& address, uint64_t tag) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_abort(co, address, TaskScope::kTask, tag); };
}
inline auto abort_all(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_abort(co, address, TaskScope::kTaskSet, 0); };
}
inline auto reset_unit(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_reset_unit(co, address); };
}
inline auto reset_target(const ScsiAddress& address) {
  return [=](ScsiBus& bus, Co& co) { return bus.co_reset_target(co, address); };
}

/// Some turns, in which what can end ends.
inline void settle(ScsiBusFixture& f) {
  int left = 10;
  REQUIRE(f.until([&] { return left-- == 0; }));
}

}  // namespace rhea::test
