#include "devices/virtio/virtio_scsi.h"

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "tests/support/watchdog.h"
#include "tests/unit/devices/virtio_scsi_adapter.h"

using namespace rhea;
using namespace rhea::devices;
using Adapter = test::VirtioScsiAdapter;
using test::FakeUnit;
using test::GuestBuffer;
using Response = VirtioScsiResponse;
using Task = VirtioScsiTask;
using Reg = VirtioCommonReg;

namespace {

constexpr uint64_t kDevicePage = 2 * VirtioPci::kPage;
constexpr uint64_t kSenseSizeAt = 20, kCdbSizeAt = 24;
constexpr uint8_t kNeedsReset = 64;

uint64_t config(Adapter& adapter, uint64_t offset, unsigned size = 4) {
  return adapter.driver().load(kDevicePage + offset, size);
}
void set_config(Adapter& adapter, uint64_t offset, uint64_t value, unsigned size = 4) {
  adapter.driver().store(kDevicePage + offset, value, size);
}

void break_and_reset(Adapter& adapter) {
  adapter.turn_until([&] { return (adapter.driver().status() & kNeedsReset) != 0; });
  adapter.driver().write(Reg::kStatus, 0, 1);
  adapter.turn_until([&] { return adapter.driver().status() == 0; });
  adapter.start();
}

}  // namespace

TEST_CASE("VirtioScsi: the configuration is as made, and two sizes are the driver's",
          "[virtio-scsi]") {
  Adapter adapter(2);
  bql.assert_held();
  adapter.start();
  CHECK(adapter.driver().config_read(0, 4) == 0x1048'1af4);
  CHECK(adapter.driver().config_read(8, 4) >> 8 == 0x010000);
  CHECK((adapter.driver().offered() & 0xf) == 0x6);
  CHECK(config(adapter, 0) == 2);
  CHECK(config(adapter, 4) == Adapter::kSize - 2);
  CHECK(config(adapter, 8) == 0xffff);
  CHECK(config(adapter, 12) == 128);
  CHECK(config(adapter, 16) == 16);
  CHECK(config(adapter, kSenseSizeAt) == 96);
  CHECK(config(adapter, kCdbSizeAt) == 32);
  CHECK(config(adapter, 28, 2) == 0);
  CHECK(config(adapter, 30, 2) == 255);
  CHECK(config(adapter, 32) == 16383);
  const uint64_t before = adapter.scsi->errors().count();
  set_config(adapter, kSenseSizeAt, 253);
  set_config(adapter, kCdbSizeAt, 261);
  set_config(adapter, kSenseSizeAt, 18, 2);
  set_config(adapter, 0, 1);
  CHECK(adapter.scsi->errors().count() == before + 4);
  CHECK(config(adapter, kSenseSizeAt) == 96);
  CHECK(config(adapter, kCdbSizeAt) == 32);
  set_config(adapter, kSenseSizeAt, 252);
  set_config(adapter, kCdbSizeAt, 0);
  CHECK(config(adapter, kSenseSizeAt) == 252);
  CHECK(config(adapter, kCdbSizeAt) == 0);
  adapter.scsi->reset_now();
  CHECK(config(adapter, kSenseSizeAt) == 96);
  CHECK(config(adapter, kCdbSizeAt) == 32);
}

TEST_CASE("VirtioScsi: commands move data, and say what was left of it", "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  const auto unit = adapter.add(3);
  const auto lun = Adapter::lun(3);
  const auto power_on = adapter.command({0}, lun);
  CHECK(power_on.response == Response::kOk);
  CHECK(power_on.status == 2);
  REQUIRE(power_on.sense_length == 18);
  CHECK(power_on.sense[2] == 6);
  CHECK(power_on.sense[12] == 0x29);
  CHECK(power_on.used == 108);
  CHECK(adapter.page(0)[Adapter::kResponse + 12 + 18] == std::byte{0});

  const auto good = adapter.command({0}, lun);
  CHECK(good.status == 0);
  CHECK(good.sense_length == 0);

  const auto read = adapter.command({FakeUnit::kFill}, lun, 0, 512);
  CHECK(read.status == 0);
  CHECK(read.residual == 0);
  CHECK(read.used == 108 + 512);
  CHECK(adapter.page(0)[Adapter::kData + 511] == std::byte{1});

  const auto write = adapter.command({FakeUnit::kTake}, lun, 300, 0);
  CHECK(write.residual == 0);
  CHECK(write.used == 108);
  CHECK(unit->taken == 300);

  const auto failed = adapter.command({FakeUnit::kFail}, lun, 0, 512);
  CHECK(failed.status == 2);
  CHECK(failed.residual == 256);
  CHECK(failed.used == 108 + 256);
  CHECK(failed.sense[0] == 0xf0);
  CHECK(failed.sense[6] == 7);

  // As many in both directions as nobody offered to understand.
  const auto both = adapter.command({FakeUnit::kFill}, lun, 16, 16);
  CHECK(both.response == Response::kFailure);
  CHECK(both.residual == 32);
}

TEST_CASE("VirtioScsi: sizes that the driver chose hold for requests and responses",
          "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  adapter.add(0);
  const auto run = [&](uint32_t sense_size, uint32_t cdb_size, uint8_t opcode) {
    set_config(adapter, kSenseSizeAt, sense_size);
    set_config(adapter, kCdbSizeAt, cdb_size);
    adapter.write_command(0, {opcode}, Adapter::lun(0), 0, cdb_size == 0 ? 1 : cdb_size);
    adapter.requests().offer(Adapter::chain(0, 0, 512, sense_size, cdb_size));
    adapter.requests().ring();
    return adapter.answer(0, adapter.wait_used(adapter.requests()));
  };
  const auto cut = run(8, 6, 0);
  CHECK(cut.status == 2);
  CHECK(cut.sense_length == 8);
  CHECK(cut.used == 20);
  CHECK(adapter.page(0)[Adapter::kResponse + 20] == std::byte{0xee});
  const auto none = run(0, 16, FakeUnit::kFill);
  CHECK(none.status == 0);
  CHECK(none.used == 12 + 512);
  const auto large = run(252, 260, FakeUnit::kFail);
  CHECK(large.sense_length == 18);
  CHECK(large.used == 264 + 256);
  // No command at all is TEST UNIT READY.
  CHECK(run(96, 0, FakeUnit::kFail).status == 0);
}

TEST_CASE("VirtioScsi: a driver may cut requests and responses as it likes", "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  adapter.add_ready(0);
  adapter.write_command(0, {FakeUnit::kFill}, Adapter::lun(0));
  const uint64_t at = Adapter::address(0), response = at + Adapter::kResponse;
  // The last piece of the response is the first of the data.
  adapter.requests().offer(
      std::array{GuestBuffer{at, 5, false}, GuestBuffer{at + 5, 46, false},
                 GuestBuffer{response, 1, true}, GuestBuffer{response + 1, 30, true},
                 GuestBuffer{response + 31, 177, true}, GuestBuffer{response + 208, 100, true}});
  adapter.requests().ring();
  CHECK(adapter.wait_used(adapter.requests()) == 108 + 200);
  const auto answer = adapter.answer(0, 0);
  CHECK(answer.response == Response::kOk);
  CHECK(answer.status == 0);
  CHECK(answer.residual == 0);
  for (unsigned i = 12; i < 108; ++i)
    CHECK(adapter.page(0)[Adapter::kResponse + i] == std::byte{0});
  for (unsigned i = 108; i < 308; ++i) {
    CHECK(adapter.page(0)[Adapter::kResponse + i] == std::byte{1});
  }
  CHECK(adapter.page(0)[Adapter::kResponse + 308] == std::byte{0xee});
}

TEST_CASE("VirtioScsi: only what the specification calls an address is one", "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  adapter.add_ready(0);
  adapter.add_ready(300);
  const auto response = [&](VirtioScsiLun lun) {
    const auto answer = adapter.command({0}, lun);
    return std::pair(answer.response, answer.status);
  };
  const std::pair good{Response::kOk, uint8_t{0}}, check{Response::kOk, uint8_t{2}};
  const std::pair bad{Response::kBadTarget, uint8_t{0}};
  CHECK(response({1, 0, 0, 0}) == good);
  CHECK(response({1, 0, 0x40, 0}) == good);
  CHECK(response({1, 0, 0x41, 0x2c}) == good);
  CHECK(response({1, 0, 0xc1, 0x01}) == good);
  CHECK(response({0xc1, 0x01}) == good);
  CHECK(response({1, 0, 0, 1}) == check);
  CHECK(response({1, 0, 0x7f, 0xff}) == check);
  CHECK(response({1, 1, 0, 0}) == bad);
  CHECK(response({0, 0, 0, 0}) == bad);
  CHECK(response({2, 0, 0, 0}) == bad);
  CHECK(response({1, 0, 0x01, 0x2c}) == bad);  // a bus behind the target
  CHECK(response({1, 0, 0x80, 0}) == bad);
  CHECK(response({1, 0, 0xc1, 0x02}) == bad);
  CHECK(response({1, 0, 0, 0, 0, 0, 0, 1}) == bad);
  CHECK(response({0xc1, 0x01, 0, 1}) == bad);
}

TEST_CASE("VirtioScsi: a request without room for what it has to say breaks its queue",
          "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  adapter.add_ready(0);
  const uint64_t at = Adapter::address(0);
  const std::vector<std::pair<unsigned, std::vector<GuestBuffer>>> requests{
      {2, {{at, 50, false}, {at + 0x400, 108, true}}},
      {2, {{at, 51, false}, {at + 0x400, 107, true}}},
      {2, {{at + 0x400, 108, true}}},
      {0, {{at, 3, false}, {at + 0x400, 8, true}}},
      {0, {{at, 23, false}, {at + 0x400, 1, true}}},
      {0, {{at, 24, false}}}};
  for (const auto& [queue, chain] : requests) {
    std::memset(adapter.page(0), 0, 64);
    auto& ring = queue == 0 ? adapter.control() : adapter.requests();
    ring.offer(chain);
    ring.ring();
    break_and_reset(adapter);
    // The reset is told, and all works again.
    const auto told = adapter.command({0}, Adapter::lun(0));
    CHECK(told.sense[13] == 0x02);
    CHECK(adapter.command({0}, Adapter::lun(0)).status == 0);
  }
}

TEST_CASE("VirtioScsi: task management finds what it means", "[virtio-scsi][tmf]") {
  Adapter adapter;
  adapter.start();
  const auto unit = adapter.add_ready(0);
  adapter.add_ready(1);
  const auto lun = Adapter::lun(0), other = Adapter::lun(1);
  const auto park = [&](uint64_t tag) {
    adapter.offer(1, {FakeUnit::kPark}, lun, tag);
    adapter.turn_until([&] { return unit->waiting() == 1; });
  };
  const auto parked_ends = [&] { return adapter.answer(1, adapter.wait_used(adapter.requests())); };
  const auto ready = [&] { return adapter.command({0}, lun); };

  CHECK(adapter.task(Task::kQueryTaskSet, lun) == Response::kOk);
  park(7);
  CHECK(adapter.task(Task::kQueryTask, lun, 7) == Response::kFunctionSucceeded);
  CHECK(adapter.task(Task::kQueryTask, lun, 8) == Response::kOk);
  CHECK(adapter.task(Task::kQueryTaskSet, lun) == Response::kFunctionSucceeded);
  CHECK(adapter.task(Task::kQueryTaskSet, other) == Response::kOk);
  CHECK(adapter.task(Task::kAbortTask, lun, 8) == Response::kOk);
  CHECK(unit->waiting() == 1);
  CHECK(adapter.task(Task::kAbortTask, lun, 7) == Response::kOk);
  CHECK(parked_ends().response == Response::kAborted);
  for (const Task task : {Task::kAbortTaskSet, Task::kClearTaskSet}) {
    park(7);
    CHECK(adapter.task(task, other) == Response::kOk);
    CHECK(unit->waiting() == 1);
    CHECK(adapter.task(task, lun) == Response::kOk);
    CHECK(parked_ends().response == Response::kAborted);
  }
  CHECK(ready().status == 0);
  park(7);
  CHECK(adapter.task(Task::kUnitReset, lun) == Response::kOk);
  const auto reset = parked_ends();
  CHECK(reset.response == Response::kReset);
  CHECK(reset.residual == 0);
  CHECK(unit->resets == 1);
  CHECK(ready().sense[13] == 0x03);
  park(7);
  // The LUN does not matter.
  CHECK(adapter.task(Task::kNexusReset, {1, 0, 0x80, 9, 9}) == Response::kOk);
  CHECK(parked_ends().response == Response::kReset);
  CHECK(ready().sense[13] == 0x07);
  CHECK(adapter.command({0}, other).sense[13] == 0x07);

  CHECK(adapter.task(Task::kClearAca, lun) == Response::kFunctionRejected);
  CHECK(adapter.task(static_cast<Task>(8), lun) == Response::kFunctionRejected);
  CHECK(adapter.task(Task::kAbortTask, Adapter::lun(2)) == Response::kIncorrectLun);
  CHECK(adapter.task(Task::kUnitReset, Adapter::lun(0, 1)) == Response::kBadTarget);
  CHECK(adapter.task(Task::kUnitReset, {3}) == Response::kBadTarget);
  CHECK(adapter.task(Task::kNexusReset, {1, 9}) == Response::kBadTarget);
}

TEST_CASE("VirtioScsi: notifications are understood, and none is offered", "[virtio-scsi]") {
  Adapter adapter;
  adapter.start();
  adapter.add(0);
  const auto ask = [&](uint32_t type, const VirtioScsiLun& lun, uint32_t room) {
    const VirtioScsiNotification what{.type = type, .lun = lun, .requested = 0x7e};
    std::memcpy(adapter.page(0), &what, sizeof what);
    std::memset(adapter.page(0) + 0x400, 0xee, 16);
    adapter.control().offer(std::array{GuestBuffer{Adapter::address(0), sizeof what, false},
                                       GuestBuffer{Adapter::address(0) + 0x400, room, true}});
    adapter.control().ring();
    const uint32_t used = adapter.wait_used(adapter.control());
    std::vector<uint8_t> answer;
    for (unsigned i = 0; i < 6; ++i) {
      answer.push_back(std::to_integer<uint8_t>(adapter.page(0)[0x400 + i]));
    }
    return std::pair(used, answer);
  };
  using Answer = std::pair<uint32_t, std::vector<uint8_t>>;
  for (const uint32_t type : {1U, 2U}) {
    CHECK(ask(type, Adapter::lun(0), 8) == Answer{5, {0, 0, 0, 0, 0, 0xee}});
    CHECK(ask(type, Adapter::lun(1), 5) == Answer{5, {0, 0, 0, 0, 12, 0xee}});
    CHECK(ask(type, Adapter::lun(0, 1), 5) == Answer{5, {0, 0, 0, 0, 3, 0xee}});
    CHECK(ask(type, {9}, 5) == Answer{5, {0, 0, 0, 0, 3, 0xee}});
  }
  // The response is the last byte of whatever this is.
  CHECK(ask(3, Adapter::lun(0), 2) == Answer{0, {0xee, 9, 0xee, 0xee, 0xee, 0xee}});
  CHECK(ask(3, Adapter::lun(0), 1) == Answer{1, {9, 0xee, 0xee, 0xee, 0xee, 0xee}});
}

TEST_CASE("VirtioScsi: a driver's reset ends what is parked, and tells of itself",
          "[virtio-scsi][reset]") {
  Adapter adapter(2);
  adapter.start();
  const auto unit = adapter.add_ready(0);
  adapter.offer(1, {FakeUnit::kPark}, Adapter::lun(0), 1, 0);
  adapter.offer(2, {FakeUnit::kPark}, Adapter::lun(0), 2, 1);
  adapter.turn_until([&] { return unit->waiting() == 2; });
  adapter.driver().write(Reg::kStatus, 0, 1);
  adapter.turn_until([&] { return adapter.driver().status() == 0; });
  CHECK_FALSE(adapter.requests(0).take().has_value());
  CHECK_FALSE(adapter.requests(1).take().has_value());
  CHECK(unit->resets >= 1);
  adapter.start();
  CHECK(adapter.command({0}, Adapter::lun(0)).sense[13] == 0x02);
}

TEST_CASE("VirtioScsi: a reset waits for the host, and so does task management that it meets",
          "[virtio-scsi][reset]") {
  test::Watchdog watchdog("a reset that the host holds up", std::chrono::minutes(1));
  Adapter adapter;
  adapter.start();
  const auto unit = adapter.add_ready(0);
  adapter.offer(1, {FakeUnit::kStuck}, Adapter::lun(0), 1);
  adapter.turn_until([&] { return unit->waiting() == 1; });
  adapter.offer_task(Task::kAbortTask, Adapter::lun(0), 1);
  adapter.round_the_contexts();
  CHECK_FALSE(adapter.control().take().has_value());
  adapter.driver().write(Reg::kStatus, 0, 1);
  adapter.round_the_contexts();
  CHECK(adapter.driver().status() != 0);
  unit->let_go();
  adapter.turn_until([&] { return adapter.driver().status() == 0; });
  CHECK_FALSE(adapter.control().take().has_value());
}

TEST_CASE("VirtioScsi: a queue's reset ends its own requests alone", "[virtio-scsi][reset]") {
  Adapter adapter(2);
  adapter.start();
  const auto unit = adapter.add_ready(0);
  adapter.offer(1, {FakeUnit::kPark}, Adapter::lun(0), 1, 0);
  adapter.offer(2, {FakeUnit::kPark}, Adapter::lun(0), 2, 1);
  adapter.turn_until([&] { return unit->waiting() == 2; });
  adapter.driver().write(Reg::kQueueSelect, 3, 2);
  adapter.driver().write(Reg::kQueueReset, 1, 2);
  adapter.turn_until([&] { return adapter.driver().read(Reg::kQueueReset, 2) == 0; });
  CHECK(unit->waiting() == 1);
  CHECK(adapter.task(Task::kAbortTaskSet, Adapter::lun(0)) == Response::kOk);
  CHECK(adapter.answer(1, adapter.wait_used(adapter.requests(0))).response == Response::kAborted);
  CHECK_FALSE(adapter.requests(1).take().has_value());
  CHECK(adapter.command({0}, Adapter::lun(0)).status == 0);
}
