// Interrupts of a virtio function that are due, or may be, when its machine goes to another
// process.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "tests/support/temp_dir.h"
#include "tests/unit/devices/saved_virtio_disk.h"

using namespace rhea;
using namespace rhea::devices;
using namespace rhea::test;

TEST_CASE("VirtioPci: an interrupt that the guest may not have got is sent again, there",
          "[virtio][saved]") {
  struct Row {
    uint64_t features;
    bool seen;  // by the driver, before the machine stopped
    uint64_t interrupts;
  };
  const Row row = GENERATE(Row{~uint64_t{0}, false, 1}, Row{~uint64_t{0}, true, 0},
                           Row{~bit(VirtioFeature::kEventIdx), true, 1});
  CAPTURE(row.features, row.seen);
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start(row.features);
    disk.offer(kRead, 0x20000);
    disk.wait_until([&] { return disk.queue->has_used() && disk.interrupts() == 1; });
    if (row.seen) {
      disk.wait_for_used();
      disk.queue->set_used_event(1);  // where nobody looks without the feature
    }
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  disk.wait_until([&] { return !disk.blk->pausing(); });
  CHECK(disk.interrupts() == 0);  // it does not run yet
  disk.pci->resume_loaded();
  disk.stop();  // behind it on the queue's context
  CHECK(disk.interrupts() == row.interrupts);
}

TEST_CASE("VirtioPci: of a change of its configuration the guest is told again, there",
          "[virtio][saved]") {
  const bool changed = GENERATE(false, true);
  const TempDir directory;
  const std::string image = directory.file("image");
  std::ofstream(image).put(0);
  std::filesystem::resize_file(image, 1 << 20);
  const std::string node = "driver=raw,file.driver=file,file.filename=" + image;
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk(node);
    bql.assert_held();
    disk.start();
    if (changed) MUST(disk.graph().resize(disk.gs(), *disk.graph().find(disk.gs(), "d0"), 2 << 20));
    CHECK(disk.config_interrupts() == (changed ? 1 : 0));
    disk.stop();
    moved.emplace(disk.save());
  }
  SavedDisk disk(node);
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  CHECK(disk.config_interrupts() == 0);  // it does not run yet
  disk.pci->resume_loaded();
  CHECK(disk.config_interrupts() == (changed ? 1 : 0));
}

TEST_CASE("VirtioPci: a message that waits behind a mask is sent when the mask goes, there",
          "[virtio][saved]") {
  constexpr uint64_t kTable = VirtioMachine::kMsixAt + 3 * 0x10000;
  constexpr uint64_t kVectorControl = kTable + 16 + 12, kPendingBits = kTable + 4096;
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.start();
    disk.machine().space().store({kVectorControl}, 1, 4);
    disk.offer(kRead, 0x20000);
    disk.wait_for_used();
    disk.stop();
    moved.emplace(disk.save());
    CHECK(disk.interrupts() == 0);
  }
  SavedDisk disk;
  bql.assert_held();
  REQUIRE(disk.load(*moved).has_value());
  disk.pci->resume_loaded();
  CHECK(disk.machine().space().load({kPendingBits}, 4) == 2);
  CHECK(disk.interrupts() == 0);
  disk.machine().space().store({kVectorControl}, 0, 4);
  CHECK(disk.interrupts() == 1);
  CHECK(disk.machine().space().load({kPendingBits}, 4) == 0);
}

TEST_CASE("VirtioPci: a wire that the driver has not answered is held there, until it is",
          "[virtio][saved]") {
  const auto held = [](SavedDisk& disk) {
    return std::ranges::any_of(std::array{0U, 1U, 2U, 3U}, [&disk](unsigned wire) {
      return disk.machine().irqs().level(wire);
    });
  };
  std::optional<MovedDisk> moved;
  {
    SavedDisk disk;
    bql.assert_held();
    disk.queue.emplace(disk.VirtioDisk::start());
    disk.offer(kRead, 0x20000);
    disk.wait_for_used();
    disk.stop();
    moved.emplace(disk.save());  // the bottom half that raises the wire has not run, or has
  }
  SavedDisk disk;
  bql.assert_held();
  CHECK_FALSE(held(disk));
  REQUIRE(disk.load(*moved).has_value());
  CHECK(held(disk));
  CHECK(disk.driver().load(0x1000, 1) == 1);
  CHECK_FALSE(held(disk));
}
