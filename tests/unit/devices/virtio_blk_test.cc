#include "devices/virtio/virtio_blk.h"

#include <array>
#include <catch2/catch.hpp>
#include <semaphore>

#include "block/drivers/blkdebug.h"
#include "block/graph.h"
#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "tests/unit/devices/virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using test::GuestBuffer;
using test::GuestQueue;
using test::VirtioDriver;
using test::VirtioMachine;
using Disk = test::VirtioDisk;

TEST_CASE("VirtioBlk: a driver reads, writes, flushes and asks for the serial number",
          "[virtio-blk]") {
  VirtioBlkConfig config;
  config.serial = "rhea-1";
  Disk disk(1, "driver=null-co,read-zeroes=on,size=1M", config);
  GuestQueue queue = disk.start();
  std::memset(disk.machine().ram() + 0x8000, 0x55, 4096);
  CHECK(disk.request(queue, 0, 8, {{0x8000, 4096, true}}) == std::pair<uint8_t, uint32_t>(0, 4097));
  CHECK(disk.machine().ram()[0x8000] == std::byte{0});
  CHECK(disk.machine().ram()[0x8fff] == std::byte{0});
  CHECK(disk.request(queue, 1, 8, {{0x8000, 4096, false}}) == std::pair<uint8_t, uint32_t>(0, 1));
  CHECK(disk.request(queue, 4, 0, {}) == std::pair<uint8_t, uint32_t>(0, 1));
  CHECK(disk.request(queue, 8, 0, {{0x8000, 20, true}}) == std::pair<uint8_t, uint32_t>(0, 21));
  CHECK(std::memcmp(disk.machine().ram() + 0x8000, "rhea-1\0", 7) == 0);
  CHECK(disk.request(queue, 99, 0, {{0x8000, 512, true}}).first == 2);
  CHECK(disk.request(queue, 0, 2047, {{0x8000, 1024, true}}).first == 1);
}

TEST_CASE("VirtioBlk: a request without a status breaks the queue until the driver resets",
          "[virtio-blk]") {
  Disk disk;
  GuestQueue queue = disk.start();
  queue.offer(std::vector<GuestBuffer>{{0x1000, 16, false}});
  queue.ring();
  // The service context tells the driver, so the loop has to turn.
  while ((disk.driver().status() & 64) == 0) {
    bql.assert_held();
    disk.loop().turn();
  }
  disk.driver().write(VirtioDriver::Reg::kStatus, 0, 1);
  while (disk.driver().status() != 0) {
    bql.assert_held();
    disk.loop().turn();
  }
  GuestQueue again = disk.start();
  CHECK(disk.request(again, 4, 0, {}).first == 0);
}

TEST_CASE("VirtioBlk: many requests at once complete, on queues of several contexts",
          "[virtio-blk]") {
  Disk disk(2);
  disk.driver().negotiate(~uint64_t{0});
  GuestQueue queues[] = {disk.driver().set_up_queue(0, 0x10000, 256, disk.blk->kick_fd(0)),
                         disk.driver().set_up_queue(1, 0x20000, 256, disk.blk->kick_fd(1))};
  disk.driver().go();
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, &header, sizeof header);
  // Memory of its own for each queue: they are served by two threads.
  const std::vector<GuestBuffer> chains[] = {
      {{0x1000, 16, false}, {0x8000, 512, true}, {0x2000, 1, true}},
      {{0x1000, 16, false}, {0x9000, 512, true}, {0x3000, 1, true}}};
  int left[] = {3000, 3000}, done = 0;
  disk.wait_until([&] {
    for (int i = 0; i < 2; ++i) {
      GuestQueue& queue = queues[i];
      while (queue.take()) ++done;
      bool offered = false;
      while (left[i] > 0 && queue.free_descriptors() >= chains[i].size()) {
        queue.offer(chains[i]);
        --left[i];
        offered = true;
      }
      if (offered) queue.ring();
    }
    return done == 6000;
  });
  CHECK(disk.blk->backend().stats().kinds[0].operations == 6000);
}

TEST_CASE("VirtioBlk: a drain stops the queues, and what was offered meanwhile runs after it",
          "[virtio-blk][drain]") {
  Disk disk;
  GuestQueue queue = disk.start();
  block::Node& node = *disk.graph().find(disk.gs(), "d0");
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header{0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, &header, sizeof header);
  REQUIRE(disk.graph()
              .with_drained(disk.gs(), node,
                            [&](block::DrainBypass&) -> Result<void> {
                              queue.offer(std::vector<GuestBuffer>{
                                  {0x1000, 16, false}, {0x8000, 512, true}, {0x2000, 1, true}});
                              queue.ring();
                              // Round the context once: it would have taken the request by then.
                              TRY(disk.graph().run_sync(disk.gs(), disk.blk->queue(0).context(),
                                                        [](Co&) -> Result<void> { return ok(); }));
                              CHECK_FALSE(queue.take().has_value());
                              return ok();
                            })
              .has_value());
  disk.wait_until([&] { return queue.take().has_value(); });
}

TEST_CASE("VirtioBlk: an error that main hears of after the machine went on again stops nothing",
          "[virtio-blk]") {
  VirtioBlkConfig config;
  config.on_write_error = OnIoError::kNoSpace;
  Disk disk(1,
            "driver=blkdebug,image.driver=null-co,image.size=1M,inject-error.0.event=write_aio,"
            "inject-error.0.errno=28,inject-error.0.once=on",
            config);
  GuestQueue queue = disk.start();
  const uint32_t header[4] = {1, 0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, header, sizeof header);
  queue.offer(
      std::vector<GuestBuffer>{{0x1000, 16, false}, {0x8000, 512, false}, {0x2000, 1, true}});
  queue.ring();
  constexpr auto kWrite = static_cast<size_t>(block::RequestKind::kWrite);
  // Does not run what is posted to the service context: that the error came.
  disk.wait_until([&] { return disk.blk->backend().stats().kinds[kWrite].failed == 1; });
  disk.wait_until([&] { return !disk.blk->busy(); });
  const auto go_on = [&] {
    bql.assert_held();
    disk.blk->machine_stopped();
    disk.blk->machine_runs();
  };
  go_on();
  disk.wait_until([&] { return queue.take().has_value(); });
  for (int i = 0; i < 3; ++i) {
    bql.assert_held();
    disk.loop().service().notify();
    disk.loop().turn();
  }
  CHECK(disk.errors.seen.empty());
}

// Seen once on a busy host: a drain ends when a request has left its node, a little before it
// parks.
TEST_CASE("VirtioBlk: a request that failed before the machine went on stops nothing after it",
          "[virtio-blk]") {
  test::Watchdog watchdog("a write that is made again", std::chrono::seconds(20));
  VirtioBlkConfig config;
  config.on_write_error = OnIoError::kStop;
  Disk disk(1,
            "driver=blkdebug,image.driver=null-co,image.size=1M,inject-error.0.event=write_aio,"
            "inject-error.0.errno=28,inject-error.0.once=on",
            config);
  GuestQueue queue = disk.start();
  std::binary_semaphore failed{0}, go_on{0};
  test::SyncAction hold("IoErrorPolicy: failed, not yet parked", [&] {
    failed.release();
    go_on.acquire();
  });
  const uint32_t header[4] = {1, 0, 0, 0};
  std::memcpy(disk.machine().ram() + 0x1000, header, sizeof header);
  queue.offer(
      std::vector<GuestBuffer>{{0x1000, 16, false}, {0x8000, 512, false}, {0x2000, 1, true}});
  queue.ring();
  failed.acquire();
  bql.assert_held();
  // The machine has stopped for another request, and now there is space.
  disk.blk->machine_stopped();
  disk.blk->machine_runs();
  go_on.release();
  disk.wait_until([&] { return queue.take().has_value(); });
  CHECK(disk.machine().ram()[0x2000] == std::byte{0});
  disk.loop().service().notify();
  disk.loop().turn();
  CHECK(disk.errors.seen.empty());
}

TEST_CASE("VirtioBlk: a disk that goes neither waits for another nor drains it", "[virtio-blk]") {
  test::Watchdog watchdog("a disk that goes", std::chrono::seconds(20));
  Disk disk;
  constexpr const char* kHeld =
      "driver=blkdebug,node-name=h0,image.driver=null-co,image.size=1M,"
      "inject-error.0.event=read_aio,inject-error.0.suspend=A";
  block::Node& node = *MUST(disk.graph().add(disk.gs(), MUST(parse_options(kHeld))));
  auto& injector = dynamic_cast<block::Blkdebug&>(node.driver());
  struct Other final : block::BackendUser {
    void drained_begin() noexcept override { ++drains; }
    void drained_end() noexcept override {}
    bool drained_poll() const noexcept override { return false; }
    int drains = 0;
  } user;
  block::BlockBackend other(disk.graph(), "other", {});
  REQUIRE(other.insert(disk.gs(), node).has_value());
  other.set_user(&user);
  std::array<std::byte, 512> data;
  const iovec piece{data.data(), data.size()};
  bool done = false;
  const auto read = [&](Co& co) {
    done = other.co_read(co, 0, block::IoVector::of(std::span(&piece, 1))).has_value();
  };
  REQUIRE(spawn(disk.loop().block(), read).has_value());
  disk.wait_until([&] { return injector.suspended("A") == 1; });
  disk.unplug();
  CHECK(user.drains == 0);
  CHECK_FALSE(done);
  CHECK(injector.resume("A") == 1);
  disk.wait_until([&] { return done; });
  other.set_user(nullptr);
  REQUIRE(other.remove(disk.gs()).has_value());
  other.close();
}
