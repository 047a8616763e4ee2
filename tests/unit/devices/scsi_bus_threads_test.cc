// A SCSI bus under many hands: a model of its units, and requests on several threads while units
// come and go and task management runs.
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "devices/scsi/scsi_bus.h"
#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/scsi_fakes.h"
#include "util/check.h"
#include "util/io_thread.h"
#include "util/rcu.h"

using namespace rhea;
using namespace rhea::devices;
using test::FakeRequest;
using test::FakeUnit;
using End = ScsiOutcome::End;
using TaskResult = ScsiBus::TaskResult;
using TaskScope = ScsiBus::TaskScope;

namespace {

/// Main with the BQL, and a bus.
class Main {
 public:
  // Unchecked: the destructor gives the BQL back.
  Main() NO_THREAD_SAFETY_ANALYSIS {
    bql.lock();
    loop_ = MUST(MainLoop::create());
    bus_ = std::make_unique<ScsiBus>("scsi.0", ScsiBus::Limits{}, *loop_);
  }
  // Unchecked: the constructor took the BQL.
  ~Main() NO_THREAD_SAFETY_ANALYSIS {
    for (const auto& unit : bus_->units()) MUST(bus_->remove(*unit));
    bus_.reset();
    loop_.reset();
    bql.unlock();
  }
  ScsiBus& bus() { return *bus_; }
  /// Takes a unit out as hot-plug does: main sleeps unless it is told to look.
  void take_out(ScsiUnit& unit) {
    bql.assert_held();
    bool looked = false;
    bus_->prepare_to_leave(unit, [&] { looked = true; });
    while (!bus_->idle(unit)) {
      while (!std::exchange(looked, false)) loop_->turn();
    }
    REQUIRE(bus_->leave(unit, Nanoseconds{0}).has_value());
  }
  template <class F>
  void until(F&& done) {
    bql.assert_held();
    REQUIRE(loop_->waiter().until(
        loop_->gs(),
        [&] {
          const bool now = done();
          if (!now) loop_->block().notify();
          return now;
        },
        std::chrono::minutes(1)));
  }
  ScsiOutcome outcome_of(FakeRequest& request, const ScsiAddress& address) {
    std::optional<ScsiOutcome> outcome;
    REQUIRE(spawn(loop_->block(), [&](Co& co) {
              outcome = bus_->execute(co, address, request);
            }).has_value());
    until([&] { return outcome.has_value(); });
    return *outcome;
  }

 private:
  RcuThread rcu_thread_;
  std::unique_ptr<MainLoop> loop_;
  std::unique_ptr<ScsiBus> bus_;
};

/// What the places of a bus are to be.
class Model {
 public:
  explicit Model(unsigned seed) : random_(seed) {}

  /// Places that often meet, and the ends of what there is.
  ScsiAddress any() {
    static constexpr std::array<uint8_t, 4> kTargets{0, 1, 7, 255};
    static constexpr std::array<uint16_t, 6> kLuns{0, 1, 2, 255, 256, 16383};
    return {.target = kTargets[random_() % kTargets.size()],
            .lun = kLuns[random_() % kLuns.size()]};
  }
  bool has(const ScsiAddress& address) const { return units.contains(address); }
  bool has_target(uint8_t target) const {
    return std::ranges::any_of(units, [=](const auto& unit) { return unit.target == target; });
  }
  unsigned draw(unsigned below) { return static_cast<unsigned>(random_() % below); }

  std::set<ScsiAddress> units;

 private:
  std::mt19937 random_;
};

/// A command at a place ends as the model says.
void check_command(Main& main, Model& model, const ScsiAddress& address) {
  FakeRequest request({0x12, 0, 0, 0, 36}, 36);
  const ScsiOutcome outcome = main.outcome_of(request, address);
  if (!model.has_target(address.target)) {
    CHECK(outcome.end == End::kNoTarget);
    return;
  }
  CHECK(outcome.end == End::kCompleted);
  // A fake unit says nothing; a target says that there is none.
  CHECK(outcome.transferred == (model.has(address) ? 0 : 36));
}

void check_list(Main& main, Model& model, const ScsiAddress& address) {
  FakeRequest request({0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 256);
  const ScsiOutcome outcome = main.outcome_of(request, address);
  const auto count = std::ranges::count_if(
      model.units, [&](const ScsiAddress& unit) { return unit.target == address.target; });
  if (count == 0) {
    CHECK(outcome.end == End::kNoTarget);
  } else {
    CHECK(outcome.transferred == 8 + 8 * static_cast<uint64_t>(count));
  }
}

TaskResult expected(const Model& model, const ScsiAddress& address) {
  if (!model.has_target(address.target)) return TaskResult::kNoTarget;
  return model.has(address) ? TaskResult::kComplete : TaskResult::kIncorrectLun;
}

}  // namespace

TEST_CASE("ScsiBus: units that come and go anywhere are found where they are", "[scsi]") {
  const auto seed = static_cast<unsigned>(Catch::rngSeed());
  INFO("seed " << seed);
  Main main;
  bql.assert_held();
  Model model(seed);
  const int rounds = test::sized(2000, 50'000);
  for (int round = 0; round < rounds; ++round) {
    const ScsiAddress address = model.any();
    switch (model.draw(5)) {
      case 0: {
        const auto added = main.bus().add(std::make_shared<FakeUnit>(address));
        CHECK(added.has_value() == !model.has(address));
        model.units.insert(address);
        break;
      }
      case 1: {
        const auto units = main.bus().units();
        const auto found = std::ranges::find(units, address, &ScsiUnit::address);
        CHECK((found != units.end()) == model.has(address));
        if (found != units.end()) REQUIRE(main.bus().remove(**found).has_value());
        model.units.erase(address);
        break;
      }
      case 2:
        check_command(main, model, address);
        break;
      case 3:
        check_list(main, model, address);
        break;
      default:
        CHECK(main.bus().find_unit(address) == expected(model, address));
    }
  }
}

namespace {

constexpr unsigned kThreads = 3, kLuns = 4;

/// One thread's coroutines: commands, or task management, one after the other until told to stop.
struct Load {
  explicit Load(ScsiBus& b) : bus(b) {}

  void command(Co& co, unsigned seed) {
    std::mt19937 random(seed);
    while (!stop) {
      FakeRequest request({0}, 0, random() % 8);
      constexpr std::array<uint8_t, 4> kOpcodes{0x00, FakeUnit::kPark, 0xa0, 0x03};
      request.cdb[0] = kOpcodes[random() % kOpcodes.size()];
      request.cdb[9] = 16;
      std::array<std::byte, 16> data;
      const iovec piece{data.data(), data.size()};
      request.data_in = {std::span(&piece, 1), data.size()};
      const ScsiOutcome outcome =
          bus.execute(co, {.lun = static_cast<uint16_t>(random() % kLuns)}, request);
      RHEA_CHECK(request.parks == request.unparks);
      // What was parked goes on for a reason alone.
      if (request.cdb[0] == FakeUnit::kPark && outcome.end == End::kCompleted) {
        RHEA_CHECK(outcome.status == ScsiStatus::kCheckCondition);
      }
      ++commands;
      co.reschedule();
    }
    --running;
  }
  void manage(Co& co, unsigned seed) {
    std::mt19937 random(seed);
    while (!stop) {
      const ScsiAddress address{.lun = static_cast<uint16_t>(random() % kLuns)};
      switch (random() % 5) {
        case 0:
          bus.co_abort(co, address, TaskScope::kTask, random() % 8);
          break;
        case 1:
          bus.co_abort(co, address, TaskScope::kTaskSet, 0);
          // Not one of those that were there is left; others may have come.
          break;
        case 2:
          bus.co_reset_unit(co, address);
          break;
        case 3:
          bus.co_reset_target(co, address);
          break;
        default:
          bus.query(address, TaskScope::kTaskSet, 0);
      }
      ++functions;
      co.reschedule();
    }
    --running;
  }

  ScsiBus& bus;
  std::atomic<bool> stop = false;
  std::atomic<unsigned> commands = 0, functions = 0, running = 0;
};

}  // namespace

TEST_CASE("ScsiBus: requests of several threads end while units go and tasks are aborted",
          "[scsi][stress]") {
  test::Watchdog watchdog("requests, units and task management at once", std::chrono::minutes(5));
  const auto seed = static_cast<unsigned>(Catch::rngSeed());
  INFO("seed " << seed);
  Main main;
  bql.assert_held();
  Load load(main.bus());
  std::vector<std::unique_ptr<IOThread>> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.push_back(MUST(IOThread::create("io")));
  const auto start = [&](unsigned thread, void (Load::*body)(Co&, unsigned), unsigned number) {
    ++load.running;
    REQUIRE(spawn(threads[thread]->context(), [&load, body, number](Co& co) {
              (load.*body)(co, number);
            }).has_value());
  };
  for (unsigned i = 0; i < kThreads; ++i) {
    for (unsigned n = 0; n < 8; ++n) start(i, &Load::command, seed + 100 * i + n);
    start(i, &Load::manage, seed + 1000 + i);
  }
  std::vector<std::shared_ptr<FakeUnit>> units(kLuns);
  std::mt19937 random(seed);
  const int rounds = test::sized(300, 5000);
  for (int round = 0; round < rounds; ++round) {
    test::Watchdog::feed();
    const auto lun = static_cast<uint16_t>(random() % kLuns);
    if (units[lun] != nullptr) {
      if (round % 2 == 0) {
        main.take_out(*units[lun]);
      } else {
        REQUIRE(main.bus().remove(*units[lun]).has_value());
      }
      CHECK(units[lun].use_count() == 1);
      units[lun].reset();
    } else {
      units[lun] = std::make_shared<FakeUnit>(ScsiAddress{.lun = lun});
      REQUIRE(main.bus().add(units[lun]).has_value());
      if (round % 7 == 0) main.bus().reset();
      const unsigned before = load.commands;
      main.until([&] { return load.commands > before; });
    }
  }
  load.stop = true;
  main.until([&] {
    main.bus().reset();  // wakes what is parked
    return load.running == 0;
  });
  CHECK(load.functions > 0);
}
