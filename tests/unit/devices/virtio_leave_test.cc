// A disk that is taken out of a running machine: what is under way ends first, main waits for none
// of it, and a disk that can not go goes on.
#include <array>
#include <cstring>

#include "block/drivers/blkdebug.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;
using Disk = test::VirtioDisk;

namespace {

constexpr uint32_t kRead = 0, kWrite = 1;
/// Holds reads until they are let go; the first write finds no space.
constexpr std::string_view kNode =
    "driver=blkdebug,inject-error.0.event=read_aio,inject-error.0.suspend=held,"
    "inject-error.1.event=write_aio,inject-error.1.errno=28,inject-error.1.once=on,"
    "image.driver=null-co,image.size=1M,image.read-zeroes=on";

/// Offers a request of one sector and does not wait for it. Each has memory of its own: others are
/// under way.
void offer(Disk& disk, GuestQueue& queue, uint32_t type) {
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{type, 0, 0};
  const uint64_t number = queue.next_offer();
  const uint64_t header_at = 0x1000 + 16 * number, status_at = 0x2000 + number;
  std::memcpy(disk.machine().ram() + header_at, &header, sizeof header);
  queue.offer(std::array{GuestBuffer{header_at, 16, false},
                         GuestBuffer{0x8000 + 512 * number, 512, type == kRead},
                         GuestBuffer{status_at, 1, true}});
  queue.ring();
}

/// A disk that main wants to take out.
class Leaving : public Disk {
 public:
  explicit Leaving(QueuesOn where, test::VirtioBlkConfig config = {})
      : Disk(1, kNode, std::move(config), where) {}

  block::Blkdebug& injector() {
    return dynamic_cast<block::Blkdebug&>(graph().find(gs(), "d0")->driver());
  }
  void prepare() {
    bql.assert_held();
    pci->prepare_to_leave([this] { ++looks; });
  }
  /// Turns main's loop until the disk has told that it may go.
  void wait_until_idle() {
    bql.assert_held();
    while (looks == 0 || !pci->idle()) loop().turn();
  }
  /// Turns the loop until the disk has reported once more.
  void wait_for_look() {
    bql.assert_held();
    for (const int before = looks; looks == before;) loop().turn();
  }
  int looks = 0;
};

constexpr std::array kPlaces{Disk::QueuesOn::kIothreads, Disk::QueuesOn::kMain};

}  // namespace

TEST_CASE("VirtioDevice: a disk with nothing under way may leave once its queues know",
          "[virtio-leave]") {
  test::Watchdog watchdog("a disk that leaves", std::chrono::minutes(1));
  for (const auto where : kPlaces) {
    Leaving disk(where);
    GuestQueue queue = disk.start();
    bql.assert_held();
    disk.prepare();
    disk.wait_until_idle();
    offer(disk, queue, kWrite);  // to no avail: it takes no more
    REQUIRE(disk.pci->leave().has_value());
    CHECK(disk.driver().status() == 0);
    CHECK_FALSE(queue.take().has_value());
    // The node is free before the device is gone.
    CHECK(disk.graph().del(disk.gs(), "d0").has_value());
  }
}

TEST_CASE("VirtioDevice: a disk that leaves ends its requests first, and main hears of the last",
          "[virtio-leave]") {
  test::Watchdog watchdog("a disk that leaves", std::chrono::minutes(1));
  for (const auto where : kPlaces) {
    Leaving disk(where);
    GuestQueue queue = disk.start();
    bql.assert_held();
    offer(disk, queue, kRead);
    offer(disk, queue, kRead);
    disk.wait_until([&] { return disk.injector().suspended("held") == 2; });
    disk.prepare();
    disk.wait_for_look();
    CHECK_FALSE(disk.pci->idle());
    const auto oldest = [&] {
      return disk.graph().oldest_request(disk.gs(), &disk.blk->backend());
    };
    CHECK(oldest().find(" on node 'd0', a read of 512 bytes at 0, is ") != std::string::npos);
    CHECK(disk.injector().resume("held") == 2);
    disk.wait_for_look();  // only the end of the last request brings it
    disk.wait_until_idle();
    CHECK(disk.pci->leave().has_value());
    CHECK(queue.take().has_value());  // as any request's end: shown before the queue has gone
    CHECK(oldest().empty());
  }
}

TEST_CASE("VirtioDevice: a disk that stays after all serves what came meanwhile",
          "[virtio-leave]") {
  test::Watchdog watchdog("a disk that stays", std::chrono::minutes(1));
  for (const auto where : kPlaces) {
    Leaving disk(where);
    GuestQueue queue = disk.start();
    bql.assert_held();
    offer(disk, queue, kRead);
    disk.wait_until([&] { return disk.injector().suspended("held") == 1; });
    disk.prepare();
    disk.wait_for_look();
    offer(disk, queue, kRead);
    CHECK(disk.injector().suspended("held") == 1);
    disk.pci->stay();
    disk.wait_until([&] { return disk.injector().suspended("held") == 2; });
    const int looks = disk.looks;
    CHECK(disk.injector().resume("held") == 2);
    for (int i = 0; i < 2; ++i) disk.wait_until([&] { return queue.take().has_value(); });
    disk.loop().turn();
    CHECK(disk.looks == looks);  // nobody asks any more
    disk.prepare();              // and it can be asked again
    disk.wait_until_idle();
    CHECK(disk.pci->leave().has_value());
  }
}

TEST_CASE("VirtioDevice: a request that waits for the machine does not keep its disk",
          "[virtio-leave]") {
  test::Watchdog watchdog("a disk that leaves", std::chrono::minutes(1));
  for (const auto where : kPlaces) {
    test::VirtioBlkConfig config;
    config.on_write_error = OnIoError::kStop;
    Leaving disk(where, config);
    GuestQueue queue = disk.start();
    bql.assert_held();
    offer(disk, queue, kWrite);
    while (disk.errors.seen.empty()) disk.loop().turn();
    disk.prepare();
    disk.wait_until_idle();
    REQUIRE(disk.pci->leave().has_value());
    CHECK_FALSE(queue.take().has_value());  // it was dropped: nobody waits for it
  }
}

TEST_CASE("VirtioDevice: a request that goes on with the machine just then is waited for",
          "[virtio-leave]") {
  test::Watchdog watchdog("a disk that leaves", std::chrono::minutes(1));
  test::VirtioBlkConfig config;
  config.on_write_error = OnIoError::kStop;
  for (int round = 0; round < 20; ++round) {
    Leaving disk(Disk::QueuesOn::kIothreads, config);
    GuestQueue queue = disk.start();
    bql.assert_held();
    offer(disk, queue, kWrite);
    while (disk.errors.seen.empty()) disk.loop().turn();
    disk.blk->machine_stopped();
    disk.blk->machine_runs();
    disk.prepare();
    REQUIRE(disk.pci->leave().has_value());  // without a look whether it is idle
    CHECK(disk.blk->idle());
  }
}
