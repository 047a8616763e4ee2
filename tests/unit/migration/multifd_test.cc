#include <sys/mman.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/support/watchdog.h"
#include "tests/unit/migration/multifd_fixture.h"
#include "util/one_shot_event.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using namespace std::chrono_literals;
using rhea::test::Watchdog;
using Compression = PacketOptions::Compression;
using Checksum = PacketOptions::Checksum;
using SyncKind = MultifdSender::SyncKind;

namespace {

/// How many pages of it the host has given memory, or a look at the page of zeros.
size_t touched_pages(const memory::RamBlock& ram) {
  std::vector<unsigned char> resident(ram.size_bytes() / kPageBytes);
  RHEA_CHECK(::mincore(ram.host(), ram.size_bytes(), resident.data()) == 0);
  return static_cast<size_t>(std::ranges::count_if(resident, [](auto r) { return (r & 1) != 0; }));
}

}  // namespace

TEST_CASE("Multifd: all pages arrive, by any number of channels, streams and options",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd transfer", 600s);
  struct Row {
    unsigned channels;
    Links::Kind kind;
    PacketOptions packets;
  };
  const std::vector<Row> rows{
      {1, Links::Kind::kSockets, {}},
      {2, Links::Kind::kPipes, {}},
      {4, Links::Kind::kSockets, {.checksum = Checksum::kPayload}},
      {3, Links::Kind::kSockets, {.compression = Compression::kZstd}},
      {2,
       Links::Kind::kPipes,
       {.compression = Compression::kZstd, .zstd_level = 3, .checksum = Checksum::kPayload}},
      {17, Links::Kind::kSockets, {}},
  };
  const auto source = make_ram(4000);  // no multiple of a packet
  fill_ram(*source, 1);
  std::ranges::fill(page_of(*source, 5), std::byte{7});  // compressible
  for (const Row& row : rows) {
    INFO(row.channels << " channels, packets " << static_cast<int>(row.packets.compression)
                      << static_cast<int>(row.packets.checksum));
    const auto destination = make_ram(4000);
    Migration migration({.channels = row.channels, .kind = row.kind, .packets = row.packets},
                        *source, *destination);
    migration.send_all(*source);
    CHECK(same_bytes(*source, *destination));
    migration.finish();
    const MultifdStats stats = migration.sender->stats();
    CHECK(stats.normal_pages == 3000);
    CHECK(stats.empty_pages == 1000);
    CHECK(stats.bytes > 3000 * kPageBytes - kPageBytes);
    CHECK(stats.bytes < 3000 * kPageBytes + 30'000);
    CHECK(migration.receiver->stats().normal_pages == 3000);
    CHECK(migration.receiver->stats().empty_pages == 1000);
  }
}

TEST_CASE("Multifd: a page that became zero is zero on the other side", "[migration][multifd]") {
  const Watchdog watchdog("multifd zero pages", 600s);
  const auto source = make_ram(256);
  const auto destination = make_ram(256);
  fill_ram(*source, 2);
  Migration migration({.content = RamView::Content::kFresh}, *source, *destination);
  migration.send_all(*source);
  std::ranges::fill(source->bytes(), std::byte{0});
  migration.send_all(*source);
  CHECK(same_bytes(*source, *destination));
  migration.finish();
}

TEST_CASE("Multifd: zero pages leave fresh memory alone, and clear what was there",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd fresh memory", 600s);
  const auto source = make_ram(4096);
  std::ranges::fill(page_of(*source, 9), std::byte{1});
  const auto fresh = make_ram(4096);
  {
    Migration migration({.content = RamView::Content::kFresh}, *source, *fresh);
    migration.send_all(*source);
    migration.finish();
  }
  CHECK(touched_pages(*fresh) < 1024);  // one page, or the huge page around it
  CHECK(same_bytes(*source, *fresh));

  const auto used = make_ram(4096);
  std::ranges::fill(used->bytes(), std::byte{0xee});
  {
    Migration migration({}, *source, *used);
    migration.send_all(*source);
    migration.finish();
  }
  CHECK(same_bytes(*source, *used));
}

TEST_CASE("Multifd: compressible pages become smaller on the way", "[migration][multifd]") {
  const Watchdog watchdog("multifd zstd", 600s);
  const auto source = make_ram(512);
  const auto destination = make_ram(512);
  for (size_t i = 0; i < source->size_bytes(); ++i) {
    source->host()[i] = static_cast<std::byte>(i / 100);
  }
  Migration migration({.packets = {.compression = Compression::kZstd}}, *source, *destination);
  migration.send_all(*source);
  CHECK(same_bytes(*source, *destination));
  migration.finish();
  CHECK(migration.sender->stats().bytes < source->size_bytes() / 8);
}

TEST_CASE("Multifd: each channel carries its share", "[migration][multifd]") {
  const Watchdog watchdog("multifd shares", 600s);
  const auto source = make_ram(4096);
  const auto destination = make_ram(4096);
  fill_ram(*source, 3);
  Migration migration({.channels = 4}, *source, *destination);
  migration.send_all(*source);
  uint64_t sum = 0;
  for (uint64_t bytes : migration.sender->bytes_per_channel()) {
    CHECK(bytes > 0);
    sum += bytes;
  }
  CHECK(sum == migration.sender->stats().bytes);
  migration.finish();
}

TEST_CASE("Multifd: a channel that was held up catches up", "[migration][multifd]") {
  const Watchdog watchdog("multifd held up", 600s);
  constexpr uint32_t kBatches = 20;
  const auto source = make_ram(kPacketPages);  // zeros: nobody needs to read what is sent of them
  Links links(2, Links::Kind::kSockets);
  OneShotEvent road_is_clear;
  const auto connect = links.connect();
  const auto sender =
      MUST(MultifdSender::create(sender_config({}, *source), [&](unsigned n, auto cancel) {
        if (n == 1) road_is_clear.wait();
        return connect(n, std::move(cancel));
      }));
  const auto send_batch = [&] {
    for (uint32_t page = 0; page < kPacketPages; ++page) {
      Migration::MUST_OK(sender->queue_page(0, page));
    }
  };
  for (uint32_t i = 0; i < kBatches; ++i) send_batch();
  road_is_clear.set();
  MUST(sender->sync(SyncKind::kLocal));
  const auto before = sender->bytes_per_channel();
  // One at a time, so that both are free, and the other would get every second.
  for (uint32_t i = 0; i < kBatches; ++i) {
    send_batch();
    MUST(sender->sync(SyncKind::kLocal));
  }
  Migration::MUST_OK(sender->finish());
  const auto after = sender->bytes_per_channel();
  const uint64_t packet = kPacketHeaderBytes + kPacketPages * sizeof(uint32_t);
  CHECK(before[0] > before[1] + 10 * packet);
  CHECK(after[0] <= after[1] + packet);
  CHECK(after[1] <= after[0] + packet);
}

TEST_CASE("Multifd: several blocks keep their pages apart", "[migration][multifd]") {
  const Watchdog watchdog("multifd blocks", 600s);
  const auto low = make_ram(64);
  const auto high = make_ram(32);
  const auto low_copy = make_ram(64);
  const auto high_copy = make_ram(32);
  fill_ram(*low, 4);
  fill_ram(*high, 5);
  Links links(2, Links::Kind::kSockets);
  MultifdReceiver::Config to;
  to.channels = 2;
  to.ram = {ram_view(*low_copy), ram_view(*high_copy)};
  to.cancel = make_cancel();
  const auto receiver = MUST(MultifdReceiver::create(to));
  MultifdSender::Config from;
  from.channels = 2;
  from.ram = {ram_view(*low), ram_view(*high)};
  const auto sender = MUST(MultifdSender::create(from, links.connect()));
  for (unsigned i = 0; i < 2; ++i) {
    ChannelPtr in = channel_on(std::move(links.incoming(i)), to.cancel);
    const auto hello = MUST(read_hello(*in));
    REQUIRE(receiver->add(hello, std::move(in)).has_value());
  }
  for (uint32_t page = 0; page < 64; ++page) {
    REQUIRE(sender->queue_page(0, page).has_value());
    if (page < 32) REQUIRE(sender->queue_page(1, page).has_value());
  }
  REQUIRE(receiver->wait_sync(MUST(sender->sync(SyncKind::kAll))).has_value());
  CHECK(same_bytes(*low, *low_copy));
  CHECK(same_bytes(*high, *high_copy));
  CHECK(sender->finish().has_value());
  CHECK(receiver->finish().has_value());
}

TEST_CASE("Multifd: only kAll syncs are counted and reach the receiver", "[migration][multifd]") {
  const Watchdog watchdog("multifd syncs", 600s);
  const auto source = make_ram(8);
  const auto destination = make_ram(8);
  Migration migration({}, *source, *destination);
  CHECK(MUST(migration.sender->sync(SyncKind::kLocal)) == 0);
  CHECK(MUST(migration.sender->sync(SyncKind::kAll)) == 1);
  CHECK(MUST(migration.sender->sync(SyncKind::kLocal)) == 1);
  CHECK(MUST(migration.sender->sync(SyncKind::kAll)) == 2);
  CHECK(migration.receiver->wait_sync(2).has_value());
  CHECK(migration.receiver->wait_sync(1).has_value());  // long past
  migration.finish();
}

TEST_CASE("MultifdReceiver: a sync that will not come is an error, not a wait",
          "[migration][multifd]") {
  const Watchdog watchdog("multifd missing sync", 600s);
  const auto source = make_ram(8);
  const auto destination = make_ram(8);
  Migration migration({}, *source, *destination);
  CHECK(migration.sender->finish().has_value());
  const auto waited = migration.receiver->wait_sync(1);
  REQUIRE_FALSE(waited.has_value());
  CHECK(waited.error().message() == "waiting for sync 1: a multifd channel ended too early");
  CHECK(migration.receiver->finish().has_value());
}

TEST_CASE("MultifdReceiver: a channel of another migration, or twice, is refused",
          "[migration][multifd]") {
  const auto ram = make_ram(8);
  MultifdReceiver::Config config;
  config.channels = 2;
  config.session = kSession;
  config.ram = {ram_view(*ram)};
  config.cancel = make_cancel();
  const auto receiver = MUST(MultifdReceiver::create(config));
  const auto add = [&](MultifdHello hello) {
    auto [ours, theirs] = socket_pair();
    const auto added = receiver->add(hello, channel_on(std::move(ours), config.cancel));
    return added ? "" : added.error().message();
  };
  CHECK(add({.channel = 0, .session = 1}) == "a multifd channel of another migration");
  CHECK(add({.channel = 2, .session = kSession}) == "multifd channel 2 of 2");
  CHECK(receiver->missing_channels() == 2);
  CHECK(add({.channel = 1, .session = kSession}).empty());
  CHECK(add({.channel = 1, .session = kSession}) == "multifd channel 1 comes twice");
  CHECK(receiver->missing_channels() == 1);
}
