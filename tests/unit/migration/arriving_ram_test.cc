#include "migration/arriving_ram.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "migration/packet_reader.h"
#include "migration/packet_writer.h"
#include "migration/page_stream.h"
#include "tests/unit/migration/multifd_fixture.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;
using Content = RamView::Content;
using Compression = PacketOptions::Compression;

namespace {

constexpr size_t kPages = 8;
constexpr size_t kThere = 4;  // the others: the host has no memory for them

/// A store to its last pages is a SIGBUS, and a look at them too: the file ends before them, as
/// one on a full tmpfs might.
std::shared_ptr<memory::RamBlock> short_ram() {
  auto ram = MUST(memory::RamBlock::create({.type = memory::RamBlockConfig::Type::kMemfd,
                                            .name = "test.ram",
                                            .size_bytes = kPages * kPageBytes,
                                            .path = "",
                                            .share = true}));
  RHEA_CHECK(::ftruncate(ram->fd(), kThere * kPageBytes) == 0);
  return ram;
}

std::string message(const Result<void>& result) {
  return result.has_value() ? "" : result.error().message();
}

std::string no_memory(size_t pages) {
  return fmt::format("the host has no memory for {} bytes of guest RAM", pages * kPageBytes);
}

std::vector<le32> numbers(const std::vector<uint32_t>& pages) {
  return {pages.begin(), pages.end()};
}

/// What becomes of these pages of `from`, received into the short RAM over a channel.
std::string over_channel(const memory::RamBlock& from, const std::vector<uint32_t>& pages,
                         Compression compression) {
  const auto to = short_ram();
  Ends ends = socket_ends();
  const std::vector<RamView> views{ram_view(from)};
  const auto writer = MUST(PacketWriter::create(3, views, {.compression = compression}));
  PageBatch batch;
  batch.count = static_cast<uint32_t>(pages.size());
  std::ranges::copy(pages, batch.pages.begin());
  RHEA_CHECK(writer->hello(*ends.out, kSession).has_value());
  RHEA_CHECK(writer->pages(*ends.out, batch).has_value());
  RHEA_CHECK(read_hello(*ends.in).has_value());
  ArrivingRam ram({ram_view(*to)});
  const auto received = PacketReader(3, ram).next(*ends.in);
  return received.has_value() ? "" : received.error().message();
}

/// The same over the main connection.
std::string over_main(const std::shared_ptr<memory::RamBlock>& from,
                      const std::shared_ptr<memory::RamBlock>& to,
                      const std::vector<uint32_t>& pages) {
  Ends ends = socket_ends();
  FrameLink out(*ends.out);
  FrameLink in(*ends.in);
  const auto sender = MUST(PageSender::create(out, {ram_view(*from)}, PageChecksum::kNo));
  RHEA_CHECK(sender->send({.block = 0, .pages = pages}));
  const Frame frame = MUST(in.receive());
  const auto received = PageReceiver(in, {to}).receive(frame.payload);
  return received.has_value() ? "" : received.error().message();
}

}  // namespace

TEST_CASE("ArrivingRam: pages that the host has no memory for are an error, not a SIGBUS",
          "[migration]") {
  const auto block = short_ram();
  ArrivingRam ram({ram_view(*block)});
  CHECK(message(ram.make_room(0, 0, kThere)).empty());
  CHECK(message(ram.make_room(0, kThere, 1)) == no_memory(1));
  CHECK(message(ram.make_room(0, 2, kPages - 2)) == no_memory(kPages - 2));
  CHECK(message(ram.clear(0, numbers({0, 1, 2}))).empty());
  CHECK(message(ram.clear(0, numbers({1, 7}))) == no_memory(1));
}

TEST_CASE("ArrivingRam: zeros take no memory where nothing was stored", "[migration]") {
  const auto block = short_ram();
  std::ranges::fill(page_of(*block, 2), std::byte{5});
  ArrivingRam ram(arriving_views({block}));
  CHECK(message(ram.clear(0, numbers({0, 1, 2, 3, 4, 5, 6, 7}))).empty());
  CHECK(std::ranges::all_of(page_of(*block, 2), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("ArrivingRam: zeros clear what was received before, and what was there before",
          "[migration]") {
  for (const bool known : {false, true}) {
    const auto block = make_ram(kPages);
    std::ranges::fill(page_of(*block, 1), std::byte{6});
    ArrivingRam ram(known ? arriving_views({block}) : std::vector{ram_view(*block)});
    REQUIRE(ram.make_room(0, 5, 2).has_value());
    std::ranges::fill(page_of(*block, 6), std::byte{7});
    REQUIRE(ram.clear(0, numbers({0, 1, 6, 7})).has_value());
    CHECK(std::ranges::all_of(block->bytes(), [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST_CASE("PacketReader: a host without memory is named, whatever the pages hold",
          "[migration][multifd]") {
  const auto from = make_ram(kPages);
  for (const Compression compression : {Compression::kNone, Compression::kZstd}) {
    fill_ram(*from, 1);  // pages 3 and 7 are zero
    const auto error = [&](const std::vector<uint32_t>& pages) {
      return over_channel(*from, pages, compression);
    };
    CHECK(error({0, 1, 3}).empty());
    CHECK(error({0, 5}) == "packet 1: " + no_memory(1));
    CHECK(error({4, 5, 6}) == "packet 1: " + no_memory(3));
    CHECK(error({0, 7}) == "packet 1: " + no_memory(1));
  }
}

TEST_CASE("PageReceiver: a host without memory is named, whatever the pages hold", "[migration]") {
  const auto from = make_ram(kPages);
  fill_ram(*from, 1);
  CHECK(over_main(from, short_ram(), {0, 1, 3}).empty());
  CHECK(over_main(from, short_ram(), {0, 5}) == no_memory(1));
  CHECK(over_main(from, short_ram(), {0, 4, 5, 6}) == no_memory(3));
  CHECK(over_main(from, short_ram(), {0, 7}).empty());  // known to be zero already
}

// A look into the hole behind the file's end would be a SIGBUS, as one into a hole of a file on a
// full tmpfs.
TEST_CASE("LeavingRam: holes of a file are sent as zeros, and not looked into", "[migration]") {
  const auto from = short_ram();
  std::ranges::fill(page_of(*from, 1), std::byte{8});
  const auto to = make_ram(kPages);
  std::ranges::fill(page_of(*to, kPages - 1), std::byte{9});
  CHECK(over_main(from, to, {0, 1, 2, 3, 4, 5, 6, 7}).empty());
  CHECK(page_of(*to, 1).front() == std::byte{8});
  CHECK(page_of(*to, kPages - 1).front() == std::byte{0});

  const std::vector<RamView> views{ram_view(*from)};
  const auto writer = MUST(PacketWriter::create(3, views, {}));
  PageBatch batch;
  for (uint32_t page = 0; page < kPages; ++page) batch.pages[batch.count++] = page;
  Ends ends = socket_ends();
  const auto written = MUST(writer->pages(*ends.out, batch));
  CHECK(written.normal_pages == 1);
  CHECK(written.empty_pages == kPages - 1);
}

TEST_CASE("LeavingRam: what is stored into a hole is sent next time", "[migration]") {
  const auto from = short_ram();
  const std::vector<RamView> views{ram_view(*from)};
  const auto writer = MUST(PacketWriter::create(3, views, {}));
  PageBatch batch;
  batch.count = 1;
  batch.pages[0] = 2;
  Ends ends = socket_ends();
  CHECK(MUST(writer->pages(*ends.out, batch)).empty_pages == 1);
  std::ranges::fill(page_of(*from, 2), std::byte{8});
  CHECK(MUST(writer->pages(*ends.out, batch)).normal_pages == 1);
}
