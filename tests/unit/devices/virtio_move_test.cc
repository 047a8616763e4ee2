// A device's queues change their event loop under a driver that runs.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

#include "block/drivers/blkdebug.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;
using Disk = test::VirtioDisk;

namespace {

constexpr std::string_view kStuck =
    "driver=blkdebug,inject-error.0.event=read_aio,inject-error.0.suspend=held,image.driver=null-"
    "co,"
    "image.size=1M,image.read-zeroes=on";
constexpr std::string_view kNoSpace =
    "driver=blkdebug,inject-error.0.event=write_aio,inject-error.0.errno=28,inject-error.0.once=on,"
    "image.driver=null-co,image.size=1M,image.read-zeroes=on";

/// Moves all queues to main's loop and back to the first thread.
class Moves {
 public:
  explicit Moves(Disk& disk) : disk_(disk), home_(disk.blk->queue(0).context()) {}
  Result<void> to(AioContext& context) {
    bql.assert_held();
    TRY(disk_.blk->hold());
    disk_.blk->move_queues(std::vector<AioContext*>(disk_.blk->queues(), &context));
    disk_.blk->release();
    return ok();
  }
  AioContext& main() { return disk_.loop().block(); }
  AioContext& home() { return home_; }

 private:
  Disk& disk_;
  AioContext& home_;
};

/// Offers a request of one sector and does not wait for it.
void offer(Disk& disk, GuestQueue& queue, uint32_t type) {
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{type, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, &header, sizeof header);
  disk.machine().ram()[0x2000] = std::byte{0xff};
  queue.offer(std::array{GuestBuffer{0x1000, 16, false}, GuestBuffer{0x8000, 512, type == 0},
                         GuestBuffer{0x2000, 1, true}});
  queue.ring();
}

}  // namespace

TEST_CASE("VirtioDevice: queues that moved serve what comes, there and back", "[virtio-move]") {
  Disk disk;
  Moves moves(disk);
  GuestQueue queue = disk.start();
  for (int round = 0; round < 20; ++round) {
    REQUIRE(moves.to(moves.main()).has_value());
    CHECK(&disk.blk->queue(0).context() == &moves.main());
    CHECK(disk.request(queue, 0, 0, {{0x8000, 512, true}}).first == 0);
    REQUIRE(moves.to(moves.home()).has_value());
    CHECK(disk.request(queue, 0, 0, {{0x8000, 512, true}}).first == 0);
  }
}

TEST_CASE("VirtioDevice: what is rung while the queues are held is served where they go",
          "[virtio-move]") {
  Disk disk;
  Moves moves(disk);
  GuestQueue queue = disk.start();
  bql.assert_held();
  REQUIRE(disk.blk->hold().has_value());
  offer(disk, queue, 0);
  disk.blk->move_queues(std::array{&moves.main()});
  CHECK_FALSE(queue.take().has_value());
  disk.blk->release();
  disk.wait_until([&] { return queue.take().has_value(); });
}

TEST_CASE("VirtioDevice: queues move before the driver starts, and across its reset",
          "[virtio-move]") {
  Disk disk;
  Moves moves(disk);
  REQUIRE(moves.to(moves.main()).has_value());
  GuestQueue queue = disk.start();
  CHECK(disk.request(queue, 0, 0, {{0x8000, 512, true}}).first == 0);
  bql.assert_held();
  disk.blk->reset_now();
  REQUIRE(moves.to(moves.home()).has_value());
  GuestQueue again = disk.start();
  CHECK(disk.request(again, 0, 0, {{0x8000, 512, true}}).first == 0);
}

TEST_CASE("VirtioDevice: a request that does not end keeps its queues where they are",
          "[virtio-move]") {
  test::Watchdog watchdog("a move that a request holds up", std::chrono::minutes(1));
  Disk disk(1, kStuck);
  Moves moves(disk);
  GuestQueue queue = disk.start();
  auto& injector = dynamic_cast<block::Blkdebug&>(disk.graph().find(disk.gs(), "d0")->driver());
  offer(disk, queue, 0);
  disk.wait_until([&] { return injector.suspended("held") == 1; });
  const auto moved = moves.to(moves.main());
  REQUIRE_FALSE(moved.has_value());
  CHECK(moved.error().message() == "Requests of 'vd0' did not end within 5 s");
  CHECK(&disk.blk->queue(0).context() == &moves.home());
  CHECK(injector.resume("held") == 1);
  disk.wait_until([&] { return queue.take().has_value(); });
  REQUIRE(moves.to(moves.main()).has_value());
}

TEST_CASE("VirtioDevice: a request that waits for the machine keeps its queues where they are",
          "[virtio-move]") {
  test::VirtioBlkConfig config;
  config.on_write_error = OnIoError::kStop;
  Disk disk(1, kNoSpace, config);
  Moves moves(disk);
  GuestQueue queue = disk.start();
  offer(disk, queue, 1);
  while (disk.errors.seen.empty()) {
    bql.assert_held();
    disk.loop().turn();
  }
  const auto moved = moves.to(moves.main());
  REQUIRE_FALSE(moved.has_value());
  CHECK(moved.error().message() == "Requests of 'vd0' wait for the machine to go on");
  bql.assert_held();
  disk.blk->machine_stopped();
  disk.blk->machine_runs();
  disk.wait_until([&] { return queue.take().has_value(); });
  CHECK(disk.machine().ram()[0x2000] == std::byte{0});
  REQUIRE(moves.to(moves.main()).has_value());
}
