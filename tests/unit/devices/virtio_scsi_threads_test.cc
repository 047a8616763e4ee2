// The SCSI host adapter with its queues on several threads: what a driver may rely on, and what
// must not meet.
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/size.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/virtio_scsi_adapter.h"

using namespace rhea;
using namespace rhea::devices;
using Adapter = test::VirtioScsiAdapter;
using test::FakeUnit;
using Response = VirtioScsiResponse;
using Task = VirtioScsiTask;

TEST_CASE("VirtioScsi: an abort is told behind the task's end, however slow that one's thread is",
          "[virtio-scsi][tmf]") {
  Adapter adapter(2);
  adapter.start();
  const auto unit = adapter.add_ready(0);
  std::atomic<bool> stopped = false, goes_on = false;
  unit->after_parking = [&](Co& co) {
    // Runs before what shows the driver the end of the request.
    co.executor().aio()->post([&] {
      stopped = true;
      goes_on.wait(false);
    });
  };
  adapter.offer(1, {FakeUnit::kPark}, Adapter::lun(0), 7, 1);
  adapter.turn_until([&] { return unit->waiting() == 1; });
  adapter.offer_task(Task::kAbortTask, Adapter::lun(0), 7);
  adapter.turn_until([&] { return stopped.load(); });
  // The function has been woken, and had its turn.
  std::atomic<bool> passed = false;
  AioContext& home = adapter.scsi->queue(kScsiControlQueue).context();
  home.post([&] { home.post([&] { passed = true; }); });
  adapter.turn_until([&] { return passed.load(); });
  const bool told_early = adapter.control().take().has_value();
  CHECK_FALSE(told_early);
  CHECK_FALSE(adapter.requests(1).take().has_value());
  goes_on = true;
  goes_on.notify_one();
  while (!told_early && !adapter.control().take().has_value()) std::this_thread::yield();
  CHECK(adapter.requests(1).take().has_value());
  CHECK(adapter.answer(1, 0).response == Response::kAborted);
}

TEST_CASE("VirtioScsi: who hears that a task is aborted has heard of the task's end",
          "[virtio-scsi][tmf][stress]") {
  test::Watchdog watchdog("aborted tasks", std::chrono::minutes(5));
  Adapter adapter(3);
  adapter.start();
  const auto unit = adapter.add_ready(0);
  const auto lun = Adapter::lun(0);
  const int rounds = test::sized(300, 20'000);
  for (int round = 0; round < rounds; ++round) {
    for (unsigned queue = 0; queue < 3; ++queue) {
      adapter.offer(queue + 1, {FakeUnit::kPark}, lun, queue, queue);
    }
    adapter.turn_until([&] { return unit->waiting() == 3; });
    adapter.offer_task(round % 2 == 0 ? Task::kAbortTaskSet : Task::kUnitReset, lun);
    // Looks as a driver's processor does: without a turn of main's loop in between.
    while (!adapter.control().take().has_value()) std::this_thread::yield();
    for (unsigned queue = 0; queue < 3; ++queue) {
      REQUIRE(adapter.requests(queue).take().has_value());
      const auto ended = adapter.answer(queue + 1, 0).response;
      REQUIRE(ended == (round % 2 == 0 ? Response::kAborted : Response::kReset));
    }
    if (round % 2 == 1) adapter.command({0}, lun);  // tells of the reset
    test::Watchdog::feed();
  }
}

namespace {

constexpr unsigned kQueues = 2, kLuns = 3, kSlots = 20;

/// A driver that keeps its request queues full of commands, some of which wait until they are
/// cancelled.
class Driver {
 public:
  Driver(Adapter& adapter, unsigned seed) : adapter_(adapter), random_(seed) {
    for (unsigned queue = 0; queue < kQueues; ++queue) {
      for (unsigned slot = 0; slot < kSlots; ++slot) free_[queue].push_back(slot);
    }
  }

  void offer_all() {
    for (unsigned queue = 0; queue < kQueues; ++queue) {
      while (!free_[queue].empty()) offer(queue);
      adapter_.requests(queue).ring();
    }
  }
  void take_all() {
    for (unsigned queue = 0; queue < kQueues; ++queue) {
      while (const auto used = adapter_.requests(queue).take()) {
        const unsigned slot = slot_of_[queue][used->first];
        check(page(queue, slot));
        free_[queue].push_back(slot);
        ++ended;
      }
    }
  }
  unsigned under_way() const {
    return static_cast<unsigned>(kQueues * kSlots - free_[0].size() - free_[1].size());
  }

  uint64_t ended = 0;

 private:
  static unsigned page(unsigned queue, unsigned slot) { return 1 + queue * kSlots + slot; }
  void offer(unsigned queue) {
    const unsigned slot = free_[queue].back();
    free_[queue].pop_back();
    constexpr std::array<uint8_t, 5> kOpcodes{0x00, 0x00, FakeUnit::kFill, 0xa0, FakeUnit::kPark};
    const uint8_t opcode = kOpcodes[random_() % kOpcodes.size()];
    const auto lun = static_cast<uint16_t>(random_() % kLuns);
    const unsigned n = page(queue, slot);
    adapter_.write_command(n, {opcode, 0, 0, 0, 0, 0, 0, 0, 0, 64}, Adapter::lun(lun), slot);
    const uint16_t head = adapter_.requests(queue).offer(Adapter::chain(n, 0, 64));
    slot_of_[queue][head] = slot;
  }
  void check(unsigned n) {
    const auto answer = adapter_.answer(n, 0);
    const std::set<Response> possible{Response::kOk, Response::kAborted, Response::kReset,
                                      Response::kBadTarget};
    REQUIRE(possible.contains(answer.response));
    REQUIRE(answer.residual <= 64);
  }

  Adapter& adapter_;
  std::mt19937 random_;
  std::array<std::vector<unsigned>, kQueues> free_;
  std::array<std::array<unsigned, Adapter::kSize>, kQueues> slot_of_{};
};

}  // namespace

TEST_CASE("VirtioScsi: units come and go, tasks are aborted and the driver resets under load",
          "[virtio-scsi][stress]") {
  test::Watchdog watchdog("an adapter under load", std::chrono::minutes(5));
  const auto seed = static_cast<unsigned>(Catch::rngSeed());
  INFO("seed " << seed);
  std::mt19937 random(seed);
  Adapter adapter(kQueues);
  bql.assert_held();
  std::array<std::shared_ptr<FakeUnit>, kLuns> units;
  const int resets = test::sized(8, 300);
  for (int reset = 0; reset < resets; ++reset) {
    adapter.start();
    Driver driver(adapter, seed + static_cast<unsigned>(reset));
    std::array<unsigned, Adapter::kSize> event_page{};
    for (unsigned page = 200; page < 208; ++page) event_page[adapter.offer_event(page)] = page;
    for (int round = 0; round < 30; ++round) {
      driver.offer_all();
      const auto lun = static_cast<uint16_t>(random() % kLuns);
      if (units[lun] == nullptr) {
        units[lun] = adapter.add(lun);
      } else if (random() % 2 == 0) {
        adapter.remove(*units[lun]);
        units[lun].reset();
      } else {
        units[lun]->attention(sense::kCapacityChanged);
      }
      adapter.offer_task(static_cast<Task>(random() % 8), Adapter::lun(lun), random() % kSlots,
                         150);
      adapter.wait_used(adapter.control());
      while (const auto event = adapter.events().take()) {
        const unsigned page = event_page[event->first];
        event_page[adapter.offer_event(page)] = page;
      }
      driver.take_all();
    }
    CHECK(driver.ended > 0);
    test::Watchdog::feed();
    if (reset % 2 == 0) {
      adapter.scsi->reset_now();
    } else {
      adapter.driver().write(VirtioCommonReg::kStatus, 0, 1);
      adapter.turn_until([&] { return adapter.driver().status() == 0; });
    }
  }
}
