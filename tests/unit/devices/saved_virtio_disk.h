// SavedDisk: a virtio-blk function whose state goes to another machine, with the guest's memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/devices/saved_device_fixture.h"
#include "tests/unit/devices/virtio_disk.h"

namespace rhea::test {

using WholeState = devices::VirtioWholeState<devices::VirtioBlkState>;

constexpr std::string_view kNull = "driver=null-co,read-zeroes=on,size=1M";
constexpr std::string_view kFull =
    "driver=blkdebug,image.driver=null-co,image.size=1M,inject-error.0.event=write_aio,"
    "inject-error.0.errno=28";
constexpr uint64_t kRamBytes = 4 << 20;
constexpr uint32_t kRead = 0, kWrite = 1;

inline devices::VirtioBlkConfig stops_on_errors() {
  devices::VirtioBlkConfig config;
  config.on_write_error = devices::OnIoError::kStop;
  return config;
}

/// What goes from one machine to the other.
struct MovedDisk {
  std::vector<uint8_t> state;
  std::vector<std::byte> ram;
  std::optional<GuestQueue> queue;
};

/// A disk with a driver that uses MSI-X vector 1 for its queue, and 0 for its configuration.
struct SavedDisk : VirtioDisk {
  explicit SavedDisk(std::string_view node = kNull, devices::VirtioBlkConfig config = {})
      : VirtioDisk(1, node, std::move(config)) {
    bql.assert_held();
  }
  void start(uint64_t features = ~uint64_t{0}) {
    bql.assert_held();
    driver().use_msix();
    driver().negotiate(features);
    driver().write(VirtioDriver::Reg::kConfigVector, 0, 2);
    queue.emplace(driver().set_up_queue(0, 0x10000, 16, blk->kick_fd(0), 1));
    driver().go();
  }
  /// The machine has stopped, and nothing is under way.
  void stop() {
    bql.assert_held();
    blk->machine_stopped();
    wait_until([this] { return !blk->busy(); });
  }
  MovedDisk save() {
    bql.assert_held();
    return {.state = pci->save(),
            .ram = {machine().ram(), machine().ram() + kRamBytes},
            .queue = queue};
  }
  Result<void> load(const MovedDisk& from) {
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
  uint64_t config_interrupts() { return machine().msi().vectors[0]->delivered(); }

  std::optional<GuestQueue> queue;
};

/// A disk with `count` writes that an error has stopped, one after the other, saved.
inline MovedDisk saved_with_parked_writes(int count) {
  SavedDisk disk(kFull, stops_on_errors());
  bql.assert_held();
  disk.start();
  for (int i = 0; i < count; ++i) {
    disk.offer(kWrite, 0x20000 + uint64_t{0x10000} * static_cast<unsigned>(i));
    const auto stopped = static_cast<size_t>(i) + 1;
    disk.wait_until([&] { return disk.errors.seen.size() == stopped || disk.turn(); });
  }
  disk.stop();
  return disk.save();
}

/// A disk with a request that an error has stopped, saved.
inline MovedDisk saved_with_parked_request() { return saved_with_parked_writes(1); }

}  // namespace rhea::test
