#include "migration/ram_scan.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/size.h"
#include "tests/unit/migration/watched_ram.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::memory;
using migration::DirtyPages;
using migration::RamScan;
using migration::test::make_block;
using migration::test::WatchedRam;

namespace {

constexpr auto kClient = DirtyClient::kMigration;
constexpr uint64_t kPage = kDirtyPageBytes;
using Pages = std::vector<uint32_t>;

/// Writes down what it is asked, and whether the bits were gone by then.
class Accelerator : public MemoryListener {
 public:
  void log_sync(const Section& section) override {
    ++syncs;
    if (known.empty()) return;
    section.ram->dirty().merge(0, known);
    known.clear();
  }
  void log_clear(const Section& section, uint64_t offset, uint64_t size) override {
    clears.push_back(fmt::format("{} {}+{}", section.region->name(), offset / kPage, size / kPage));
    for (uint64_t page = offset / kPage; page < (offset + size) / kPage; ++page)
      late |= section.ram->dirty().test(kClient, page);
  }

  std::vector<uint64_t> known;  // what is dirty without the bitmap's knowing, from page 0 on
  std::vector<std::string> clears;
  int syncs = 0;
  bool late = false;  // a chunk was watched again before its bits were taken
};

/// All pages that one pass finds, block by block.
std::vector<Pages> run_pass(RamScan& scan, size_t max_pages = 64) {
  std::vector<Pages> found(scan.blocks().size());
  while (const auto batch = scan.next(max_pages)) {
    CHECK(batch->pages.size() <= max_pages);
    CHECK(std::is_sorted(batch->pages.begin(), batch->pages.end()));
    Pages& pages = found[batch->block];
    pages.insert(pages.end(), batch->pages.begin(), batch->pages.end());
  }
  return found;
}

Pages range(uint32_t first, uint32_t end) {
  Pages pages;
  for (uint32_t page = first; page < end; ++page) pages.push_back(page);
  return pages;
}

}  // namespace

TEST_CASE("RamScan: the first pass finds each page of each block once", "[migration]") {
  constexpr uint64_t kLarge = RamScan::kChunkPages + 70;  // its last word has six bits
  const std::vector blocks = {make_block(1, "small"), make_block(kLarge, "large")};
  WatchedRam world(blocks);
  RamScan scan(blocks);
  scan.mark_all();
  CHECK(scan.begin_pass() == 1 + kLarge);
  const auto found = run_pass(scan, GENERATE(size_t{1}, size_t{64}, size_t{1000}));
  CHECK(found[0] == range(0, 1));
  CHECK(found[1] == range(0, static_cast<uint32_t>(kLarge)));
  CHECK(scan.begin_pass() == 0);
  CHECK_FALSE(scan.next(64));
  CHECK_FALSE(scan.next(64));  // and it stays over
}

TEST_CASE("RamScan: a page written behind the walk waits for the next pass", "[migration]") {
  auto ram = make_block(4 * RamScan::kChunkPages);
  WatchedRam world({ram});
  RamScan scan({ram});
  const auto mark = [&](uint64_t page) { ram->dirty().mark(page * kPage, kPage); };
  mark(10);
  mark(20);
  CHECK(scan.begin_pass() == 2);
  const auto first = scan.next(1);
  REQUIRE(first);
  CHECK(Pages(first->pages.begin(), first->pages.end()) == Pages{10});
  mark(10);                        // behind
  mark(20);                        // of a chunk whose bits are taken
  mark(3 * RamScan::kChunkPages);  // ahead
  CHECK(run_pass(scan)[0] == Pages{20, 3 * RamScan::kChunkPages});
  CHECK(scan.begin_pass() == 2);
  CHECK(run_pass(scan)[0] == Pages{10, 20});
}

TEST_CASE("RamScan: a chunk is watched again after its bits are taken and before it is read",
          "[migration]") {
  auto accelerator = std::make_shared<Accelerator>();
  auto ram = make_block(2 * RamScan::kChunkPages + 100);
  WatchedRam world({ram}, accelerator);
  RamScan scan({ram});
  accelerator->known = {0b11};
  ram->dirty().mark((2 * RamScan::kChunkPages + 99) * kPage, kPage);
  CHECK(scan.begin_pass() == 3);
  CHECK(accelerator->syncs == 1);
  CHECK(accelerator->clears.empty());
  CHECK(scan.next(1)->pages[0] == 0);
  CHECK(accelerator->clears == std::vector<std::string>{"ram 0+8192"});
  CHECK(scan.next(8)->pages.size() == 1);
  CHECK(accelerator->clears.size() == 1);
  CHECK(scan.next(8)->pages[0] == 2 * RamScan::kChunkPages + 99);
  // Nothing was dirty in the chunk between: nobody has to protect it. The last one is short.
  CHECK(accelerator->clears == std::vector<std::string>{"ram 0+8192", "ram 16384+100"});
  CHECK_FALSE(scan.next(8));
  CHECK_FALSE(accelerator->late);
}

TEST_CASE("RamScan: what is copied at the end is what was written", "[migration][stress]") {
  constexpr uint64_t kPages = 2 * RamScan::kChunkPages;
  constexpr int kWriters = 3;
  const int writes = test::sized(20'000, 2'000'000);
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  auto ram = make_block(kPages);
  WatchedRam world({ram});
  RamScan scan({ram});
  scan.mark_all();
  std::vector<uint64_t> copy(kPages);
  const auto word = [&](uint64_t page) {
    return std::atomic_ref(*reinterpret_cast<uint64_t*>(ram->host() + page * kPage));
  };
  const auto run = [&] {
    scan.begin_pass();
    while (const auto batch = scan.next(512))
      for (const uint32_t page : batch->pages)
        copy[page] = word(page).load(std::memory_order_relaxed);  // as a guest's memory is read
  };
  std::atomic<int> writing = kWriters;
  std::vector<Thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.push_back(MUST(Thread::start("writer", [&, i] {
      std::mt19937 random(seed + static_cast<uint32_t>(i));
      for (int n = 1; n <= writes; ++n) {
        const uint64_t page = random() % kPages;
        word(page).store(static_cast<uint64_t>(n) << 8 | static_cast<uint64_t>(i),
                         std::memory_order_relaxed);
        ram->dirty().mark(page * kPage, 8);
      }
      writing.fetch_sub(1);
    })));
  }
  int passes = 0;
  while (writing.load() > 0) {
    run();
    ++passes;
  }
  for (Thread& writer : writers) writer.join();
  run();  // all is quiet: the last one
  CHECK(passes > 0);
  uint64_t differ = 0;
  for (uint64_t page = 0; page < kPages; ++page)
    if (copy[page] != word(page).load(std::memory_order_relaxed)) ++differ;
  CHECK(differ == 0);
}
