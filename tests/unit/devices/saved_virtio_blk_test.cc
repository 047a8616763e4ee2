// A disk's state on its way to another machine: registers, rings, and what waits in them.
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/devices/saved_device_fixture.h"
#include "tests/unit/devices/virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

namespace {

using WholeState = VirtioWholeState<VirtioBlkState>;

constexpr std::string_view kNull = "driver=null-co,read-zeroes=on,size=1M";
constexpr std::string_view kFull =
    "driver=blkdebug,image.driver=null-co,image.size=1M,inject-error.0.event=write_aio,"
    "inject-error.0.errno=28";
constexpr uint64_t kRamBytes = 4 << 20;
constexpr uint32_t kRead = 0, kWrite = 1;

VirtioBlkConfig stops_on_errors() {
  VirtioBlkConfig config;
  config.on_write_error = OnIoError::kStop;
  return config;
}

/// What goes from one machine to the other.
struct Moved {
  std::vector<uint8_t> state;
  std::vector<std::byte> ram;
  std::optional<GuestQueue> queue;
};

/// A disk with a driver that uses MSI-X vector 1 for its queue.
struct Disk : VirtioDisk {
  explicit Disk(std::string_view node = kNull, VirtioBlkConfig config = {})
      : VirtioDisk(1, node, std::move(config)) {
    bql.assert_held();
  }
  void start(uint64_t features = ~uint64_t{0}) {
    bql.assert_held();
    driver().use_msix();
    driver().negotiate(features);
    queue.emplace(driver().set_up_queue(0, 0x10000, 16, blk->kick_fd(0), 1));
    driver().go();
  }
  /// The machine has stopped, and nothing is under way.
  void stop() {
    bql.assert_held();
    blk->machine_stopped();
    wait_until([this] { return !blk->busy(); });
  }
  Moved save() {
    bql.assert_held();
    return {.state = pci->save(),
            .ram = {machine().ram(), machine().ram() + kRamBytes},
            .queue = queue};
  }
  Result<void> load(const Moved& from) {
    bql.assert_held();
    std::ranges::copy(from.ram, machine().ram());
    if (from.queue) queue.emplace(from.queue->moved_to(machine().ram(), blk->kick_fd(0)));
    return pci->load("virtio-blk-pci", 1, from.state);
  }
  /// A request whose header, data and status lie at `at`.
  void offer(uint32_t type, uint64_t at, uint32_t bytes = 512) {
    struct {
      uint32_t type, reserved;
      uint64_t sector;
    } header{type, 0, 0};
    std::memcpy(machine().ram() + at, &header, sizeof header);
    machine().ram()[at + 16] = std::byte{0xff};
    queue->offer(std::vector<GuestBuffer>{
        {at, 16, false}, {at + 0x1000, bytes, type == kRead}, {at + 16, 1, true}});
    queue->ring();
  }
  uint8_t status_at(uint64_t at) { return std::to_integer<uint8_t>(machine().ram()[at + 16]); }
  /// For wait_until(), of what the service context does: false.
  bool turn() {
    bql.assert_held();
    loop().turn();
    return false;
  }
  void wait_for_used() {
    wait_until([this] { return queue->has_used(); });
    REQUIRE(queue->take().has_value());
  }
  uint64_t interrupts() { return machine().msi().vectors[1]->delivered(); }

  std::optional<GuestQueue> queue;
};

/// A disk with a request that an error has stopped, saved.
Moved saved_with_parked_request() {
  Disk disk(kFull, stops_on_errors());
  bql.assert_held();
  disk.start();
  disk.offer(kWrite, 0x20000);
  disk.wait_until([&] { return !disk.errors.seen.empty() || disk.turn(); });
  disk.stop();
  return disk.save();
}

}  // namespace

TEST_CASE("VirtioPci: what lies in the ring at the stop is done on the other side, without a ring",
          "[virtio][saved]") {
  std::optional<Moved> moved;
  {
    Disk disk;
    bql.assert_held();
    disk.start();
    disk.offer(kRead, 0x20000);
    disk.wait_for_used();
    disk.queue->set_used_event(1);
    disk.stop();
    disk.offer(kRead, 0x30000);  // rung for in vain
    moved.emplace(disk.save());
    CHECK_FALSE(disk.queue->has_used());
  }
  Disk disk;
  bql.assert_held();
  disk.blk->machine_stopped();
  REQUIRE(disk.load(*moved).has_value());
  CHECK(disk.driver().status() == 15);
  CHECK(disk.driver().read(VirtioCommonReg::kQueueVector, 2) == 1);
  CHECK_FALSE(disk.queue->has_used());
  disk.blk->machine_runs();
  CHECK_FALSE(disk.queue->has_used());
  disk.pci->resume_loaded();
  disk.wait_for_used();
  CHECK(disk.status_at(0x30000) == 0);
  disk.wait_until([&] { return disk.interrupts() == 1; });
  // And it goes on.
  disk.offer(kRead, 0x40000);
  disk.wait_for_used();
  CHECK(disk.status_at(0x40000) == 0);
  CHECK(disk.driver().status() == 15);
}

TEST_CASE("VirtioPci: a request that an error has stopped is made again on the other side, once",
          "[virtio][saved]") {
  const Moved moved = saved_with_parked_request();
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.load(moved).has_value());
  disk.offer(kRead, 0x30000);
  disk.pci->resume_loaded();
  disk.wait_for_used();
  disk.wait_for_used();
  CHECK(disk.status_at(0x20000) == 0);
  CHECK(disk.status_at(0x30000) == 0);
  CHECK_FALSE(disk.queue->has_used());
  CHECK(disk.queue->free_descriptors() == 16);
  CHECK(disk.driver().status() == 15);
}

TEST_CASE("VirtioPci: a state that was loaded and has not run is saved as it came",
          "[virtio][saved]") {
  const Moved moved = saved_with_parked_request();
  std::optional<Moved> again;
  {
    Disk disk;
    bql.assert_held();
    REQUIRE(disk.load(moved).has_value());
    again.emplace(disk.save());
  }
  CHECK(again->state == moved.state);
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.load(*again).has_value());
  disk.pci->resume_loaded();
  disk.wait_for_used();
  CHECK(disk.status_at(0x20000) == 0);
}

TEST_CASE("VirtioPci: a driver may reset what was loaded before it ran", "[virtio][saved]") {
  const Moved moved = saved_with_parked_request();
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.load(moved).has_value());
  disk.pci->resume_loaded();
  disk.driver().write(VirtioCommonReg::kStatus, 0, 1);
  disk.wait_until([&] { return disk.driver().status() == 0 || disk.turn(); });
  disk.start();
  disk.offer(kRead, 0x30000);
  disk.wait_for_used();
  CHECK(disk.status_at(0x30000) == 0);
}

TEST_CASE("VirtioPci: a negotiation goes on where it was", "[virtio][saved]") {
  std::optional<Moved> moved;
  {
    Disk disk;
    bql.assert_held();
    disk.driver().negotiate(~uint64_t{0});
    disk.driver().write(VirtioCommonReg::kQueueSelect, 0, 2);
    disk.driver().write(VirtioCommonReg::kQueueSize, 32, 2);
    disk.driver().write_address(VirtioCommonReg::kQueueDescriptors, 0x1'2345'0000);
    disk.stop();
    moved.emplace(disk.save());
  }
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  CHECK(disk.driver().status() == 11);
  CHECK(disk.driver().read(VirtioCommonReg::kQueueSize, 2) == 32);
  CHECK(disk.driver().read(VirtioCommonReg::kQueueDescriptorsHigh, 4) == 1);
  disk.pci->resume_loaded();
  disk.queue.emplace(disk.driver().set_up_queue(0, 0x10000, 16, disk.blk->kick_fd(0)));
  disk.driver().go();
  disk.offer(kRead, 0x30000);
  disk.wait_for_used();
  CHECK(disk.status_at(0x30000) == 0);
}

TEST_CASE("VirtioPci: a queue that its driver broke is broken on the other side, until a reset",
          "[virtio][saved]") {
  std::optional<Moved> moved;
  {
    Disk disk;
    bql.assert_held();
    disk.start();
    disk.queue->offer_head(99);
    disk.queue->ring();
    disk.wait_until([&] { return disk.driver().status() == (15 | 64) || disk.turn(); });
    disk.stop();
    moved.emplace(disk.save());
  }
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  disk.pci->resume_loaded();
  CHECK(disk.driver().status() == (15 | 64));
  disk.driver().write(VirtioCommonReg::kStatus, 0, 1);
  disk.wait_until([&] { return disk.driver().status() == 0 || disk.turn(); });
  disk.start();
  disk.offer(kRead, 0x30000);
  disk.wait_for_used();
  CHECK(disk.status_at(0x30000) == 0);
}

TEST_CASE("VirtioBlk: the write cache is as the driver chose it", "[virtio][saved]") {
  constexpr uint64_t kWriteback = 0x2000 + 32;
  std::optional<Moved> moved;
  {
    Disk disk;
    bql.assert_held();
    disk.start();
    disk.driver().store(kWriteback, 0, 1);
    disk.stop();
    moved.emplace(disk.save());
  }
  Disk disk;
  bql.assert_held();
  REQUIRE(disk.driver().load(kWriteback, 1) == 1);
  REQUIRE(disk.load(*moved).has_value());
  CHECK(disk.driver().load(kWriteback, 1) == 0);
  CHECK_FALSE(disk.blk->backend().write_cache());
}

TEST_CASE("VirtioPci: a state that the device can not be in is refused", "[virtio][saved][sweep]") {
  struct Row {
    const char* field;
    void (*spoil)(WholeState&);
  };
  Disk disk(kFull, stops_on_errors());
  bql.assert_held();
  disk.start();
  disk.offer(kWrite, 0x20000);
  disk.wait_until([&] { return !disk.errors.seen.empty() || disk.turn(); });
  disk.stop();
  const auto good = state_of<WholeState>(*disk.pci);
  REQUIRE(good.function.virtio.queues[0].again.size() == 1);
  for (const Row& row : {
           Row{"config", [](auto& s) { s.function.pci.config[0] = 0; }},
           Row{"entries", [](auto& s) { s.function.msix.entries.clear(); }},
           Row{"config_vector", [](auto& s) { s.function.config_vector = 2; }},
           Row{"queue_vectors", [](auto& s) { s.function.queue_vectors.clear(); }},
           Row{"queue_vectors", [](auto& s) { s.function.queue_vectors[0].vector = 2; }},
           Row{"isr", [](auto& s) { s.function.isr = 4; }},
           Row{"status", [](auto& s) { s.function.virtio.status = 16; }},
           Row{"status", [](auto& s) { s.function.virtio.status = 7; }},
           Row{"driver_features", [](auto& s) { s.function.virtio.driver_features |= 1; }},
           Row{"driver_features", [](auto& s) { s.function.virtio.driver_features = 0; }},
           Row{"queues", [](auto& s) { s.function.virtio.queues.resize(2); }},
           Row{"size", [](auto& s) { s.function.virtio.queues[0].size = 15; }},
           Row{"size", [](auto& s) { s.function.virtio.queues[0].size = 512; }},
           Row{"enabled", [](auto& s) { s.function.virtio.status = 3; }},
           Row{"next_available", [](auto& s) { s.function.virtio.queues[0].enabled = false; }},
           Row{"next_available", [](auto& s) { s.function.virtio.queues[0].broken = true; }},
           Row{"again", [](auto& s) { s.function.virtio.queues[0].again[0].head = 16; }},
           Row{"again", [](auto& s) { s.function.virtio.queues[0].again.resize(17); }},
           Row{"", [](auto& s) { s.function.virtio.queues[0].descriptors = 8; }},
           Row{"", [](auto& s) { s.function.virtio.queues[0].available = 1; }},
           Row{"", [](auto& s) { s.function.virtio.queues[0].used = uint64_t{1} << 40; }},
       }) {
    WholeState state = good;
    row.spoil(state);
    CAPTURE(row.field);
    const std::string message = refusal(*disk.pci, state);
    CHECK(message.starts_with("vd0: "));
    CHECK(message.find(row.field) != std::string::npos);
    CAPTURE(message);
  }
}
