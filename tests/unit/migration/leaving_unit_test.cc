// T004e: units that write to RAM unregister, are unplugged and are freed while it is walked.
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

#include "migration/ram_scan.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/engine_fixture.h"
#include "tests/unit/migration/watched_ram.h"
#include "util/thread.h"

using namespace rhea;
using namespace rhea::memory;
using migration::RamScan;
using migration::Status;
using migration::test::DmaUnit;
using migration::test::EngineFixture;
using migration::test::FakeMachine;
using migration::test::make_block;
using migration::test::WatchedRam;
using rhea::test::SyncAction;
using rhea::test::Watchdog;
using Leaving = DmaUnit::Leaving;

namespace {

/// Where a walker can stand on its way to a listener, and whether it is still to call it there.
struct Stand {
  const char* point;
  int calls;  // that reach a listener which has gone meanwhile
};
constexpr std::array kStands{Stand{"ListenerSet: at a node", 0},
                             Stand{"ListenerSet: at a node that is alive", 1},
                             Stand{"DmaUnit: asked", 1}};

enum class Walk : uint8_t { kSync, kClear };

/// A walker on its own thread, which stands still at a point of one walk until it is let go.
class HeldWalker {
 public:
  HeldWalker(RamScan& scan, Walk walk, const char* point)
      : hold_(point, [this] {
          if (!armed_.exchange(false)) return;
          reached_.release();
          go_on_.acquire();
        }) {
    thread_ = MUST(Thread::start("walker", [this, &scan, walk] {
      if (walk == Walk::kSync) armed_ = true;
      scan.begin_pass();
      armed_ = walk == Walk::kClear;
      while (const auto batch = scan.next(512)) pages_ += batch->pages.size();
    }));
    reached_.acquire();
  }
  /// Returns how many pages the pass had.
  uint64_t finish() {
    go_on_.release();
    thread_.join();
    return pages_;
  }

 private:
  std::atomic<bool> armed_ = false;
  std::binary_semaphore reached_{0}, go_on_{0};
  uint64_t pages_ = 0;
  const SyncAction hold_;
  Thread thread_;
};

}  // namespace

TEST_CASE("T004e: a unit unregisters while a walker stands on its way to it", "[migration]") {
  const Watchdog watchdog("a unit that unregisters", std::chrono::seconds(600));
  const Walk walk = GENERATE(Walk::kSync, Walk::kClear);
  const Stand stand = GENERATE(from_range(kStands));
  INFO(stand.point << (walk == Walk::kSync ? ", syncing" : ", clearing"));
  constexpr uint64_t kPages = 3 * RamScan::kChunkPages;
  auto ram = make_block(kPages);
  std::atomic<int> alive = 0;
  auto unit = std::make_shared<DmaUnit>(alive);
  WatchedRam watched({ram}, unit);
  RamScan scan({ram});
  unit->write(*ram, 5, 1);
  unit->write(*ram, kPages - 1, 1);
  HeldWalker walker(scan, walk, stand.point);
  unit->write(*ram, 1, 1);  // of the chunk that is walked first
  unit->write(*ram, RamScan::kChunkPages, 1);
  DmaUnit::calls = DmaUnit::calls_too_late = 0;
  {
    BqlGuard guard;
    watched.space().unregister_listener(*unit);  // waits for nobody: the walker is held by us
    unit.reset();
  }
  CHECK(alive == 1);  // the walker may be in it
  uint64_t pages = walker.finish();
  CHECK(DmaUnit::calls == (stand.point == kStands.back().point ? 0 : stand.calls));
  CHECK(DmaUnit::calls_too_late == 0);
  rcu_drain_callbacks();
  CHECK(alive == 0);
  scan.begin_pass();
  while (const auto batch = scan.next(512)) pages += batch->pages.size();
  CHECK(pages == 4);  // what it wrote is known, in this pass or the next
}

namespace {

/// A device with RAM of its own, and its own way to reach the machine's.
class Card {
 public:
  Card(std::shared_ptr<RamBlock> ram, std::atomic<int>& alive)
      : unit(std::make_shared<DmaUnit>(alive)), window_("card", std::move(ram)) {}

  static std::shared_ptr<Card> plug(MemoryRegion& machine, std::shared_ptr<RamBlock> ram,
                                    std::atomic<int>& alive) REQUIRES(bql) {
    auto card = std::make_shared<Card>(std::move(ram), alive);
    card->window_.set_owner(card);
    machine.add(card->window_, WatchedRam::kStride);
    card->dma_.emplace("card's", machine);
    card->dma_->register_listener(card->unit);
    return card;
  }
  /// All that the machine can reach of it goes; the card itself when nobody looks at it any more.
  static void unplug(std::shared_ptr<Card> card, MemoryRegion& machine) REQUIRES(bql) {
    machine.remove(card->window_);
    card->dma_.reset();
    card->unit.reset();
  }

  std::shared_ptr<DmaUnit> unit;

 private:
  MemoryRegion window_;
  std::optional<AddressSpace> dma_;
};

}  // namespace

TEST_CASE("T004e: a device goes with its RAM and its address space while they are walked",
          "[migration]") {
  const Watchdog watchdog("a device that goes", std::chrono::seconds(600));
  const Walk walk = GENERATE(Walk::kSync, Walk::kClear);
  const Stand stand = GENERATE(from_range(kStands));
  INFO(stand.point << (walk == Walk::kSync ? ", syncing" : ", clearing"));
  auto ram = make_block(2 * RamScan::kChunkPages);
  auto own = make_block(2 * RamScan::kChunkPages, "card");
  std::atomic<int> alive = 0;
  WatchedRam watched({ram});
  std::shared_ptr<Card> card;
  {
    BqlGuard guard;
    card = Card::plug(watched.root(), own, alive);
  }
  const std::weak_ptr<Card> left = card;
  RamScan scan({own, ram});
  scan.mark_all();
  HeldWalker walker(scan, walk, stand.point);
  card->unit->write(*ram, 1, 1);
  DmaUnit::calls_too_late = 0;
  {
    BqlGuard guard;
    Card::unplug(std::move(card), watched.root());
  }
  own.reset();
  CHECK(alive == 1);
  CHECK_FALSE(left.expired());
  // The rest of its RAM is walked as it was found at the beginning.
  CHECK(walker.finish() >= 4 * RamScan::kChunkPages);
  CHECK(DmaUnit::calls_too_late == 0);
  rcu_drain_callbacks();
  CHECK(alive == 0);
  CHECK(left.expired());
}

// --- A whole migration --------------------------------------------------------------------------

namespace {

void check_moved(EngineFixture& f) {
  CHECK(f.error().empty());
  CHECK(f.source_events.back() == "completed");
  CHECK(f.target.runs);
  CHECK_FALSE(topology.dirty_logging());
}

/// Moves a machine, one of whose units writes to RAM and leaves as the migration comes to `point`
/// for the `nth` time. Returns whether the destination has what the source had.
bool leave_at(const char* point, int nth, unsigned channels, Leaving leaving) {
  INFO(point << ", time " << nth << ", " << channels << " channels");
  const Watchdog watchdog("a unit that leaves a migration", std::chrono::seconds(600));
  std::atomic<int> alive = 0;
  bool same = false;
  DmaUnit::calls_too_late = 0;
  {
    EngineFixture f;
    bql.assert_held();
    f.source_options.ram.channels = channels;
    AddressSpace& space = f.show_source_ram();
    auto unit = std::make_shared<DmaUnit>(alive, leaving);
    space.register_listener(unit);
    std::binary_semaphore gone(0);
    const auto leave = [&] {
      bql.assert_held();
      unit->write(f.source.block(0), 7, 1);  // sent already, or not yet
      unit->write(f.source.block(1), FakeMachine::kPages - 1, 2);
      space.unregister_listener(*unit);
      unit.reset();
      gone.release();
    };
    std::atomic<int> left = nth;
    const SyncAction action(point, [&] {
      if (--left != 0) return;
      f.post(leave);
      gone.acquire();
    });
    f.run();
    CHECK(left <= 0);
    CHECK(unit == nullptr);
    check_moved(f);
    same = f.same_ram();
  }
  CHECK(alive == 0);
  CHECK(DmaUnit::calls_too_late == 0);
  return same;
}

}  // namespace

TEST_CASE("T004e: a unit leaves wherever a migration stands, and what it wrote travels",
          "[migration][multifd]") {
  const unsigned channels = GENERATE(0U, 4U);
  // Of three passes' syncs and two or three passes' clears of two blocks.
  for (const Stand& stand : kStands)
    for (const int nth : {1, 2, 4}) CHECK(leave_at(stand.point, nth, channels, Leaving::kTells));
  if (channels == 0) return;
  for (const char* point : {"multifd sender: before a packet's write",
                            "multifd sender: before a job's post", "Source: a pass is sent"})
    CHECK(leave_at(point, 1, channels, Leaving::kTells));
}

TEST_CASE("T004e twin: what a unit keeps to itself as it leaves is missing there", "[migration]") {
  // Without channels, which may be slow: what is sent has been read.
  CHECK_FALSE(leave_at("Source: a pass is sent", 1, 0, Leaving::kForgets));
}

TEST_CASE("T004e: RAM that is unplugged by force is sent to its end", "[migration][multifd]") {
  const Watchdog watchdog("RAM that is unplugged", std::chrono::seconds(600));
  EngineFixture f;
  bql.assert_held();
  f.source_options.ram.channels = 4;
  f.show_source_ram();
  const auto bytes = f.source.block(1).bytes();
  const std::vector<std::byte> content(bytes.begin(), bytes.end());
  std::weak_ptr<RamBlock> unplugged;
  std::binary_semaphore gone(0);
  const auto unplug = [&] {
    bql.assert_held();
    f.hide_source_rom();
    unplugged = f.source.replace_rom(content.size());
    gone.release();
  };
  std::atomic<bool> armed = true;
  const SyncAction action("multifd sender: before a packet's write", [&] {
    if (!armed.exchange(false)) return;
    f.post(unplug);
    gone.acquire();
  });
  f.run();
  check_moved(f);
  CHECK(std::ranges::equal(f.target.block(1).bytes(), content));
  CHECK_FALSE(unplugged.expired());  // the migration has it
  f.destroy_source();
  f.drain_rcu();
  CHECK(unplugged.expired());
}

namespace {

/// Units that come and go on main, and a thread that has them write until the machine stops.
class Crew {
 public:
  Crew(EngineFixture& f, std::mt19937 random, std::atomic<int>& alive)
      : f_(f), space_(f.show_source_ram()), random_(random), alive_(alive) {
    writer_ = MUST(Thread::start("writer", [this, mine = std::mt19937(random())]() mutable {
      for (uint64_t value = 1; writing_; ++value) {
        const auto unit = pick(mine);
        if (unit != nullptr) unit->write(f_.source.block(mine() % 2), mine() % kPages, value);
      }
    }));
  }
  ~Crew() {
    stop();
    bql.assert_held();
    while (size() != 0) leave(0);
  }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  /// Nobody writes any more.
  void stop() {
    writing_ = false;
    if (writer_.joinable()) writer_.join();
  }
  /// One comes, or goes, or not.
  void change() {
    bql.assert_held();
    const size_t there = size();
    const auto choice = random_() % 4;
    if (choice == 0 && there != 0) leave(random_() % there);
    if (choice != 1 || there == kMost) return;
    auto unit = std::make_shared<DmaUnit>(alive_);
    space_.register_listener(unit, static_cast<int>(random_() % 3));
    units_.with([&](Units& units) { units.push_back(std::move(unit)); });
    ++came_;
  }
  int came() const { return came_; }

 private:
  using Units = std::vector<std::shared_ptr<DmaUnit>>;
  static constexpr size_t kMost = 4;
  static constexpr uint64_t kPages = FakeMachine::kPages;

  size_t size() const {
    return units_.with([](const Units& units) { return units.size(); });
  }
  std::shared_ptr<DmaUnit> pick(std::mt19937& random) const {
    return units_.with([&](const Units& units) {
      return units.empty() ? nullptr : units[random() % units.size()];
    });
  }
  void leave(size_t index) {
    bql.assert_held();
    const auto unit = units_.with([&](Units& units) {
      auto leaving = std::move(units[index]);
      units.erase(units.begin() + static_cast<ptrdiff_t>(index));
      return leaving;
    });
    space_.unregister_listener(*unit);
  }

  EngineFixture& f_;
  AddressSpace& space_;
  std::mt19937 random_;
  std::atomic<int>& alive_;
  Guarded<Units> units_;
  std::atomic<bool> writing_ = true;
  int came_ = 0;
  Thread writer_;
};

}  // namespace

TEST_CASE("T004e: units come and go all the while, and nothing that they wrote is lost",
          "[migration][multifd][stress]") {
  Watchdog watchdog("units that come and go", std::chrono::seconds(600));
  const auto seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::atomic<int> alive = 0;
  DmaUnit::calls = DmaUnit::calls_too_late = 0;
  int came = 0;
  const int rounds = rhea::test::sized(8, 300);
  for (int round = 0; round < rounds; ++round) {
    watchdog.feed();
    EngineFixture f;
    bql.assert_held();
    f.source_options.ram.channels = static_cast<unsigned>(random() % 5);
    f.source_options.downtime_limit = Nanoseconds(0);
    const uint64_t passes = 2 + random() % 8;
    f.on_pass = [&f, passes](uint64_t number) {
      if (number >= passes) f.set_downtime_limit(std::chrono::hours(1));
    };
    Crew crew(f, random, alive);
    f.source.hook = [&crew](const std::string& call) {
      if (call == "stop") crew.stop();
    };
    f.begin();
    f.turn_until([&] {
      crew.change();
      f.post([] {});  // it turns on
      return f.over();
    });
    check_moved(f);
    CHECK(f.same_ram());
    came += crew.came();
  }
  CHECK(came > rounds);
  CHECK(DmaUnit::calls > rounds);
  CHECK(alive == 0);
  CHECK(DmaUnit::calls_too_late == 0);
}
