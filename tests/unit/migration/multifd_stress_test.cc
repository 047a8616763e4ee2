// T001b and T001d: under load, and out of order.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/support/child.h"
#include "tests/support/sanitizer.h"
#include "tests/support/size.h"
#include "tests/support/sync_action.h"
#include "tests/support/watchdog.h"
#include "tests/unit/migration/guest_stores.h"
#include "tests/unit/migration/multifd_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using namespace std::chrono_literals;
using rhea::test::SyncAction;
using rhea::test::Watchdog;
using SyncKind = MultifdSender::SyncKind;
using Rounds = MultifdReceiver::Config::Rounds;

namespace {

unsigned seed_of_run() {
  const char* text = std::getenv("RHEA_TEST_SEED");
  return text != nullptr ? static_cast<unsigned>(std::atoi(text)) : std::random_device{}();
}

/// The source's memory, and what of it is still to be sent.
struct Source {
  explicit Source(size_t pages) : ram(make_ram(pages)), dirty(pages, true) { fill_ram(*ram, 1); }

  void store(std::mt19937& random) {
    const size_t page = random() % dirty.size();
    auto* words = reinterpret_cast<uint64_t*>(page_of(*ram, page).data());
    // Plain stores: whoever still reads the page has a race, which TSan reports.
    for (size_t i = 0; i < kPageBytes / sizeof *words; i += 64) words[i] = random() % 3;
    dirty[page] = true;
  }

  std::shared_ptr<memory::RamBlock> ram;
  std::vector<bool> dirty;
};

/// One round: the dirty pages in any order, in payloads of any size, with local syncs between them,
/// after which whatever was sent before may be stored to. Returns the number of payloads.
size_t send_round(MultifdSender& sender, Source& source, std::mt19937& random) {
  std::vector<uint32_t> pages;
  for (uint32_t page = 0; page < source.dirty.size(); ++page) {
    if (source.dirty[page]) pages.push_back(page);
  }
  std::ranges::shuffle(pages, random);
  source.dirty.assign(source.dirty.size(), false);
  size_t payloads = 0;
  std::vector<uint32_t> sent;
  for (uint32_t page : pages) {
    // Two views of the same memory: another block ends a payload.
    Migration::MUST_OK(sender.queue_page(random() % 3 == 0 ? 1 : 0, page));
    ++payloads;
    sent.push_back(page);
    if (random() % 64 != 0) continue;
    (void)MUST(sender.sync(SyncKind::kLocal));
    for (uint32_t done : sent) {
      if (random() % 8 != 0) continue;
      page_of(*source.ram, done)[random() % kPageBytes] = std::byte{1};
      source.dirty[done] = true;
    }
    sent.clear();
  }
  return payloads;
}

void run_stress(unsigned seed, Links::Kind kind, const PacketOptions& packets, size_t goal) {
  std::mt19937 random(seed);
  Source source(512);
  const auto destination = make_ram(512);
  Links links(4, kind);
  MultifdReceiver::Config to;
  to.channels = 4;
  to.ram = {ram_view(*destination), ram_view(*destination)};
  to.cancel = make_cancel();
  const auto receiver = MUST(MultifdReceiver::create(to));
  MultifdSender::Config from;
  from.channels = 4;
  from.ram = {ram_view(*source.ram), ram_view(*source.ram)};
  from.packets = packets;
  const auto sender = MUST(MultifdSender::create(from, links.connect()));
  for (unsigned i = 0; i < 4; ++i) {
    ChannelPtr in = channel_on(std::move(links.incoming(i)), to.cancel);
    const auto hello = MUST(read_hello(*in));
    Migration::MUST_OK(receiver->add(hello, std::move(in)));
  }
  for (size_t payloads = 0; payloads < goal;) {
    Watchdog::feed();
    payloads += send_round(*sender, source, random);
    const bool dirty_left = std::ranges::find(source.dirty, true) != source.dirty.end();
    Migration::MUST_OK(receiver->wait_sync(MUST(sender->sync(SyncKind::kAll))));
    // Plain reads: what a channel stores from now on is a race.
    if (!dirty_left) REQUIRE(same_bytes(*source.ram, *destination));
    for (int i = 0; i < 100; ++i) source.store(random);
  }
  REQUIRE(sender->finish().has_value());
  REQUIRE(receiver->finish().has_value());
}

}  // namespace

TEST_CASE("Multifd: payloads and syncs in any order keep both memories the same (T001b)",
          "[migration][multifd]") {
  const unsigned seed = seed_of_run();
  WARN("seed " << seed << " (RHEA_TEST_SEED)");
  const Watchdog watchdog("multifd stress", 600s);
  const size_t goal = rhea::test::sized<size_t>(4000, 100'000);
  run_stress(seed, Links::Kind::kPipes, {}, goal);
  run_stress(seed + 1, Links::Kind::kSockets, {}, goal);
  run_stress(seed + 2, Links::Kind::kSockets,
             {.compression = PacketOptions::Compression::kZstd,
              .checksum = PacketOptions::Checksum::kPayload},
             goal / 4);
}

TEST_CASE("Multifd: no page goes back in time while a guest stores to it (T001d)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd versions", 600s);
  const unsigned seed = seed_of_run();
  WARN("seed " << seed << " (RHEA_TEST_SEED)");
  constexpr uint32_t kPages = 128;
  const auto source = make_ram(kPages);
  const auto destination = make_ram(kPages);
  std::vector<std::atomic<bool>> dirty(kPages);
  for (auto& bit : dirty) bit = true;
  std::atomic<bool> stop = false;
  Thread guest = MUST(Thread::start("guest", [&] {
    std::mt19937 random(seed);
    for (uint64_t version = 1; !stop; ++version) {
      const size_t page = random() % kPages;
      stamp(page_of(*source, page).data(), version);
      dirty[page] = true;  // after the store, as hardware and DMA do
    }
  }));
  Migration migration({.channels = 3}, *source, *destination);
  std::mt19937 random(seed + 1);
  std::vector<uint64_t> seen(kPages, 0);
  size_t regressions = 0;
  const unsigned rounds = rhea::test::sized(100U, 2000U);
  for (unsigned round = 0; round <= rounds; ++round) {
    Watchdog::feed();
    if (round == rounds) {
      stop = true;
      guest.join();
    }
    for (uint32_t page = 0; page < kPages; ++page) {
      if (dirty[page].exchange(false)) Migration::MUST_OK(migration.sender->queue_page(0, page));
      if (random() % 16 == 0) (void)MUST(migration.sender->sync(SyncKind::kLocal));
    }
    Migration::MUST_OK(migration.receiver->wait_sync(MUST(migration.sender->sync(SyncKind::kAll))));
    for (uint32_t page = 0; page < kPages; ++page) {
      const uint64_t now = version_of(page_of(*destination, page).data());
      if (now < seen[page]) ++regressions;
      seen[page] = now;
    }
  }
  CHECK(regressions == 0);
  CHECK(same_bytes(*source, *destination));
  migration.finish();
}

namespace {

/// Round 1's copy of a page lies in one channel's socket, and that channel's receiver is held
/// before it takes it; round 2's copy goes by the other channel. Returns the version that remains.
uint64_t overtake(Rounds rounds) {
  const auto source = make_ram(1);
  const auto destination = make_ram(1);
  std::byte* arrived = page_of(*destination, 0).data();
  stamp(page_of(*source, 0).data(), 1);
  Migration migration({.rounds = rounds}, *source, *destination);
  std::atomic<bool> first = true;
  std::atomic<bool> held = false;
  std::atomic<bool> round_2_sent = false;
  const SyncAction hold("multifd receiver: before a packet's pages", [&] {
    if (!first.exchange(false)) return;
    held = true;
    // In the twin the newer copy arrives; in ours it can not, however long we wait.
    const bool in_order = rounds == Rounds::kInOrder;
    while (in_order ? !round_2_sent : version_of(arrived) != 2) std::this_thread::yield();
  });
  Migration::MUST_OK(migration.sender->queue_page(0, 0));
  (void)MUST(migration.sender->sync(SyncKind::kAll));
  while (!held) std::this_thread::yield();  // or it is the newer copy that is held
  stamp(page_of(*source, 0).data(), 2);
  Migration::MUST_OK(migration.sender->queue_page(0, 0));
  const uint64_t last = MUST(migration.sender->sync(SyncKind::kAll));
  round_2_sent = true;
  Migration::MUST_OK(migration.receiver->wait_sync(last));
  migration.finish();
  return version_of(arrived);
}

}  // namespace

TEST_CASE("Multifd: a newer copy waits for an older one on a slower channel (T001d)",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd overtaking", 600s);
  CHECK(overtake(Rounds::kInOrder) == 2);
}

TEST_CASE("Multifd twin: without the barrier the older copy is stored last (T001d)",
          "[migration][multifd]") {
  if (rhea::test::kTsan) {
    WARN("SKIP: the twin is a race, which TSan reports as such");
    return;
  }
  const Watchdog watchdog("multifd overtaking twin", 600s);
  CHECK(overtake(Rounds::kUnorderedForTest) == 1);
}
