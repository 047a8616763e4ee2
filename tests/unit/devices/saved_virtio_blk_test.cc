// A disk's state on its way to another machine: registers, rings, and what waits in them.
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/devices/saved_virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

TEST_CASE("VirtioPci: what lies in the ring at the stop is done on the other side, without a ring",
          "[virtio][saved]") {
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
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
  SavedDisk disk;
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
  const MovedDisk moved = saved_with_parked_request();
  SavedDisk disk;
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
  const MovedDisk moved = saved_with_parked_request();
  std::optional<MovedDisk> again;
  {
    SavedDisk disk;
    bql.assert_held();
    REQUIRE(disk.load(moved).has_value());
    again.emplace(disk.save());
  }
  CHECK(again->state == moved.state);
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*again).has_value());
  disk.pci->resume_loaded();
  disk.wait_for_used();
  CHECK(disk.status_at(0x20000) == 0);
}

TEST_CASE("VirtioPci: a request that is under way at the stop has ended in what is saved",
          "[virtio][saved]") {
  SavedDisk disk("driver=null-co,read-zeroes=on,size=1M,latency-ns=200000000");
  bql.assert_held();
  disk.start();
  disk.offer(kRead, 0x20000);
  disk.wait_until([&] { return disk.blk->busy(); });  // nothing is paused: it has been taken
  disk.blk->machine_stopped();
  const MovedDisk moved = disk.save();
  CHECK(disk.queue->has_used());
  const auto state = MUST(decode_state<WholeState>("saved", moved.state));
  CHECK(state.function.virtio.queues[0].next_available == 1);
  CHECK(state.function.virtio.queues[0].again.empty());
  CHECK(disk.status_at(0x20000) == 0);
}

TEST_CASE("VirtioPci: requests that wait keep their order over two moves without a run",
          "[virtio][saved]") {
  const MovedDisk first = saved_with_parked_writes(3);
  const auto heads = [](const MovedDisk& moved) {
    const auto state = MUST(decode_state<WholeState>("saved", moved.state));
    std::vector<uint16_t> waiting;
    for (const auto& [head] : state.function.virtio.queues[0].again) waiting.push_back(head);
    return waiting;
  };
  REQUIRE(heads(first).size() == 3);
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(first).has_value());
  const MovedDisk second = disk.save();
  CHECK(heads(second) == heads(first));
  disk.pci->resume_loaded();
  for (int i = 0; i < 3; ++i) disk.wait_for_used();
  CHECK(disk.queue->free_descriptors() == 16);
}

TEST_CASE("VirtioPci: every request is done once, with either way of asking for a ring",
          "[virtio][saved]") {
  const uint64_t features = GENERATE(~uint64_t{0}, ~bit(VirtioFeature::kEventIdx));
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start(features);
    disk.offer(kRead, 0x20000);
    disk.wait_for_used();
    disk.stop();
    disk.offer(kRead, 0x30000);
    disk.offer(kRead, 0x40000);
    moved.emplace(disk.save());
  }
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  disk.pci->resume_loaded();
  disk.wait_for_used();
  disk.wait_for_used();
  CHECK(disk.queue->free_descriptors() == 16);
  disk.offer(kRead, 0x50000);
  disk.wait_for_used();
  CHECK_FALSE(disk.queue->has_used());
  for (const uint64_t at : {0x3'0000U, 0x4'0000U, 0x5'0000U}) CHECK(disk.status_at(at) == 0);
}

TEST_CASE("VirtioPci: a function that is no bus master waits until it is, there",
          "[virtio][saved]") {
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start();
    disk.driver().config_write(0x04, 0x2, 2);
    disk.wait_until([&] { return !disk.blk->pausing(); });
    disk.offer(kRead, 0x20000);
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  disk.pci->resume_loaded();
  disk.wait_until([&] { return !disk.blk->busy(); });
  CHECK_FALSE(disk.queue->has_used());
  disk.driver().config_write(0x04, 0x6, 2);
  disk.wait_for_used();
  CHECK(disk.status_at(0x20000) == 0);
}

TEST_CASE("VirtioPci: a reset that is under way at the stop is done on the other side",
          "[virtio][saved]") {
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk(kFull, stops_on_errors());
    bql.assert_held();
    disk.start();
    disk.offer(kWrite, 0x20000);
    disk.wait_until([&] { return !disk.errors.seen.empty() || disk.turn(); });
    disk.driver().write(VirtioCommonReg::kStatus, 0, 1);
    disk.blk->machine_stopped();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  CHECK(disk.driver().status() == 0);
  CHECK(disk.driver().read(VirtioCommonReg::kQueueVector, 2) == kNoVector);
  disk.pci->resume_loaded();
  disk.start();
  disk.offer(kRead, 0x30000);
  disk.wait_for_used();
  CHECK(disk.status_at(0x30000) == 0);
}

TEST_CASE("VirtioPci: a driver may reset what was loaded before it ran", "[virtio][saved]") {
  const MovedDisk moved = saved_with_parked_request();
  SavedDisk disk;
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
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.driver().negotiate(~uint64_t{0});
    disk.driver().write(VirtioCommonReg::kQueueSelect, 0, 2);
    disk.driver().write(VirtioCommonReg::kQueueSize, 32, 2);
    disk.driver().write_address(VirtioCommonReg::kQueueDescriptors, 0x1'2345'0000);
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
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
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start();
    disk.queue->offer_head(99);
    disk.queue->ring();
    disk.wait_until([&] { return disk.driver().status() == (15 | 64) || disk.turn(); });
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
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
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start();
    disk.driver().store(kWriteback, 0, 1);
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
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
  SavedDisk disk(kFull, stops_on_errors());
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

TEST_CASE("VirtioPci: what a state does not fit is said before there is one", "[virtio][saved]") {
  const auto settings_of = [](unsigned queues, std::string_view node, VirtioBlkConfig config) {
    VirtioDisk disk(queues, node, std::move(config));
    bql.assert_held();
    return disk.pci->settings();
  };
  const std::string ours = settings_of(1, kNull, {});
  CHECK(ours.starts_with("queues=1x256 features=0x"));
  CHECK(ours.ends_with(" block_size=512"));
  const std::string more = settings_of(2, kNull, {});
  CHECK(more.starts_with("queues=2x256 "));
  VirtioBlkConfig smaller, plain, blocks;
  smaller.queue_size = 128;
  plain.discard = false;
  blocks.logical_block_size = blocks.physical_block_size = 4096;
  CHECK(settings_of(1, kNull, smaller).starts_with("queues=1x128 "));
  CHECK(settings_of(1, kNull, plain) != ours);
  CHECK(settings_of(1, fmt::format("{},read-only=on", kNull), {}) != ours);
  CHECK(settings_of(1, kNull, blocks).ends_with(" block_size=4096"));
  // Of what the driver does with it they say nothing.
  SavedDisk disk;
  bql.assert_held();
  disk.start(0x1'0000'0000);
  CHECK(disk.pci->settings() == ours);
}
