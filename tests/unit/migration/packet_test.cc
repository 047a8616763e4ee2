#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/sync_action.h"
#include "tests/unit/migration/multifd_fixture.h"
#include "util/crc32c.h"

using namespace rhea;
using namespace rhea::migration;
using namespace rhea::migration::test;

namespace {

using Bytes = std::vector<std::byte>;
using Event = PacketReader::Received::Event;
using Checksum = PacketOptions::Checksum;
using Compression = PacketOptions::Compression;

/// What a stream of these bytes does to a channel 3 of a machine with one block of 16 pages.
struct Destination {
  std::shared_ptr<memory::RamBlock> ram = make_ram(16);
  ArrivingRam arriving{{ram_view(*ram)}};
  PacketReader reader{3, arriving};

  std::string feed(const Bytes& stream) {
    Fd file(::memfd_create("stream", MFD_CLOEXEC));
    RHEA_CHECK(write_all(file.get(), stream).has_value());
    ::lseek(file.get(), 0, SEEK_SET);
    const ChannelPtr in = channel_on(std::move(file));
    for (;;) {
      const auto received = reader.next(*in);
      if (!received) return received.error().message();
      if (received->event == Event::kEnded) return "";
    }
  }
};

PacketHeader pages_header(uint32_t normal, uint32_t empty) {
  PacketHeader header;
  header.channel = 3;
  header.sequence = 1;
  header.normal_pages = normal;
  header.empty_pages = empty;
  header.payload_bytes = normal * static_cast<uint32_t>(kPageBytes);
  return header;
}

void append(Bytes& stream, std::span<const std::byte> bytes) {
  stream.insert(stream.end(), bytes.begin(), bytes.end());
}

/// A packet with right checksums.
Bytes packet(PacketHeader header, const std::vector<uint32_t>& indices, const Bytes& payload) {
  std::vector<le32> wire(indices.begin(), indices.end());
  header.index_crc = crc32c(std::as_bytes(std::span(wire)));
  if (header.type != PacketType::kPages) header.index_crc = 0;
  Bytes stream;
  append(stream, encode_header(header));
  append(stream, std::as_bytes(std::span(wire)));
  append(stream, payload);
  return stream;
}

std::string fed(const Bytes& stream) { return Destination{}.feed(stream); }

std::string fed_header(const std::function<void(PacketHeader&)>& change) {
  PacketHeader header = pages_header(1, 1);
  change(header);
  return fed(packet(header, {1, 2}, Bytes(kPageBytes)));
}

}  // namespace

TEST_CASE("Packet: a header is read as it was written, and lies on the wire as documented",
          "[migration][multifd]") {
  PacketHeader header = pages_header(2, 1);
  header.flags = kPayloadCrc;
  header.channel = 0x0102;
  header.block = 0x03040506;
  header.sequence = 0x1112131415161718;
  header.index_crc = 0x21222324;
  header.payload_crc = 0x31323334;
  const PacketHeaderBytes bytes = encode_header(header);
  CHECK(MUST(decode_header(bytes)) == header);
  const auto at = [&](size_t i) { return std::to_integer<int>(bytes[i]); };
  CHECK(std::memcmp(bytes.data(), "RHMF", 4) == 0);
  CHECK(at(4) == 1);  // version
  CHECK(at(6) == 2);  // pages
  CHECK(at(7) == 1);  // flags
  CHECK(at(8) == 0x02);
  CHECK(at(12) == 0x06);
  CHECK(at(16) == 0x18);
  CHECK(at(32) == 2);
  CHECK(at(36) == 1);
  CHECK(at(41) == 0x20);  // 8192 bytes
  CHECK(at(44) == 0x24);
  CHECK(at(48) == 0x34);
}

TEST_CASE("Packet: any flipped bit of a header is noticed", "[migration][multifd]") {
  PacketHeaderBytes bytes = encode_header(pages_header(1, 1));
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto mask = static_cast<std::byte>(1U << bit % 8);
    bytes[bit / 8] ^= mask;
    if (decode_header(bytes).has_value()) FAIL("bit " << bit);
    bytes[bit / 8] ^= mask;
  }
}

TEST_CASE("PacketReader: a header that does not fit is refused by name", "[migration][multifd]") {
  CHECK(fed_header([](PacketHeader&) {}).empty());
  CHECK(fed_header([](PacketHeader& h) { h.channel = 2; }) == "packet 1: it is of channel 2");
  CHECK(fed_header([](PacketHeader& h) { h.sequence = 2; }) == "packet 1: it says it is packet 2");
  CHECK(fed_header([](PacketHeader& h) { h.block = 1; }) == "packet 1: there is no RAM block 1");
  CHECK(fed_header([](PacketHeader& h) { h.flags = 4; }) == "packet 1: unknown packet flags 0x4");
  CHECK(fed_header([](PacketHeader& h) { h.number = 4; }) ==
        "packet 1: a packet of pages with a number");
  CHECK(fed_header([](PacketHeader& h) { h.normal_pages = h.empty_pages = h.payload_bytes = 0; }) ==
        "packet 1: 0 pages in a packet");
  CHECK(fed_header([](PacketHeader& h) { h.empty_pages = kPacketPages; }) ==
        "packet 1: 513 pages in a packet");
  CHECK(fed_header([](PacketHeader& h) { h.empty_pages = 0xffffffff; }) ==
        "packet 1: 4294967296 pages in a packet");
  CHECK(fed_header([](PacketHeader& h) { h.payload_bytes = 4095; }) ==
        "packet 1: 4095 bytes of payload for 1 pages");
  CHECK(fed_header([](PacketHeader& h) { h.flags = kZstd; }) ==
        "packet 1: 4096 bytes of compressed payload for 1 pages");
  CHECK(fed_header([](PacketHeader& h) { h.payload_crc = 1; }) ==
        "packet 1: an unannounced checksum");
  CHECK(fed_header([](PacketHeader& h) { h.type = PacketType::kSync; }) ==
        "packet 1: pages in a packet that has none");
  CHECK(fed_header([](PacketHeader& h) { h.type = static_cast<PacketType>(9); }) ==
        "packet 1: unknown packet type 9");
  CHECK(fed(Bytes(kPacketHeaderBytes)) == "packet 1: not a multifd packet (magic 0x0)");
}

TEST_CASE("PacketReader: page numbers outside of the block store nothing", "[migration][multifd]") {
  for (const auto& indices : {std::vector<uint32_t>{16, 0}, {0, 16}, {0xffffffff, 0}}) {
    Destination destination;
    const auto error =
        destination.feed(packet(pages_header(1, 1), indices, Bytes(kPageBytes, std::byte{1})));
    CHECK(error.find("of RAM block 0, which has 16") != error.npos);
    CHECK(std::ranges::all_of(destination.ram->bytes(), [](auto b) { return b == std::byte{}; }));
  }
}

TEST_CASE("PacketReader: damage to page numbers and to summed pages is noticed",
          "[migration][multifd]") {
  Bytes damaged = packet(pages_header(1, 0), {1}, Bytes(kPageBytes));
  damaged[kPacketHeaderBytes] ^= std::byte{1};
  CHECK(fed(damaged) == "packet 1: checksum of its page numbers is wrong");

  PacketHeader summed = pages_header(1, 0);
  const Bytes payload = random_bytes(kPageBytes, 1);
  summed.flags = kPayloadCrc;
  summed.payload_crc = crc32c(payload);
  Bytes right = packet(summed, {1}, payload);
  CHECK(fed(right).empty());
  right.back() ^= std::byte{1};
  CHECK(fed(right) == "packet 1: checksum of a packet's pages is wrong");
}

TEST_CASE("PacketReader: a frame that is no zstd, or of another size, is refused",
          "[migration][multifd]") {
  PacketHeader header = pages_header(2, 0);
  header.flags = kZstd;
  header.payload_bytes = 100;
  CHECK(fed(packet(header, {1, 2}, random_bytes(100, 1))).starts_with("packet 1: zstd: "));

  // A frame of one page where two are announced.
  const auto source = make_ram(1);
  std::ranges::fill(source->bytes(), std::byte{5});
  const std::vector<RamView> views{ram_view(*source)};
  const auto writer = MUST(PacketWriter::create(3, views, {.compression = Compression::kZstd}));
  Ends ends = socket_ends();
  PageBatch batch;
  batch.count = 1;
  REQUIRE(writer->pages(*ends.out, batch).has_value());
  PacketHeaderBytes head;
  REQUIRE(ends.in->read(head).has_value());
  header.payload_bytes = MUST(decode_header(head)).payload_bytes;
  Bytes index(4);
  REQUIRE(ends.in->read(index).has_value());
  Bytes frame(header.payload_bytes);
  REQUIRE(ends.in->read(frame).has_value());
  CHECK(fed(packet(header, {1, 2}, frame)) == "packet 1: 2 pages decompress to 4096 bytes");
}

TEST_CASE("PacketReader: syncs are numbered without gaps, a hello comes once",
          "[migration][multifd]") {
  PacketHeader sync;
  sync.type = PacketType::kSync;
  sync.channel = 3;
  sync.sequence = 1;
  sync.number = 1;
  Bytes stream = packet(sync, {}, {});
  CHECK(fed(stream).empty());
  sync.sequence = 2;
  sync.number = 3;
  append(stream, packet(sync, {}, {}));
  CHECK(fed(stream) == "packet 2: sync 3 after sync 1");
  sync.type = PacketType::kHello;
  sync.sequence = 1;
  CHECK(fed(packet(sync, {}, {})) == "packet 1: a second hello");
}

TEST_CASE("PacketReader: a stream that is cut anywhere but between packets is an error",
          "[migration][multifd]") {
  const Bytes whole = packet(pages_header(1, 1), {1, 2}, random_bytes(kPageBytes, 1));
  for (size_t size :
       {size_t{1}, size_t{63}, size_t{64}, size_t{71}, size_t{72}, whole.size() - 1}) {
    const auto error = fed(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
    CHECK(error.find("Unable to read from file: the stream ended") != error.npos);
  }
}

TEST_CASE("read_hello: whatever else comes first is refused", "[migration][multifd]") {
  Ends ends = socket_ends();
  REQUIRE(ends.out->write(encode_header(pages_header(1, 0))).has_value());
  CHECK(read_hello(*ends.in).error().message() == "a multifd channel starts without a hello");
  REQUIRE(ends.out->write(Bytes(64)).has_value());
  CHECK(read_hello(*ends.in).error().message() == "not a multifd packet (magic 0x0)");
}

TEST_CASE("PacketWriter: a page that changes under the checksum's hands arrives as it was sent",
          "[migration][multifd]") {
  // The page changes after it was copied and before it is written: were the sum that of guest RAM
  // and the payload read again, they would differ.
  const auto source = make_ram(1);
  fill_ram(*source, 6);
  const std::vector<RamView> views{ram_view(*source)};
  const auto writer = MUST(PacketWriter::create(3, views, {.checksum = Checksum::kPayload}));
  const Bytes before(source->bytes().begin(), source->bytes().end());
  Ends ends = socket_ends();
  PageBatch batch;
  batch.count = 1;
  REQUIRE(writer->hello(*ends.out, 0).has_value());
  {
    const rhea::test::SyncAction change("multifd sender: before a packet's write",
                                        [&] { source->host()[17] ^= std::byte{1}; });
    REQUIRE(writer->pages(*ends.out, batch).has_value());
  }
  ends.out.reset();
  REQUIRE(read_hello(*ends.in).has_value());
  Destination destination;
  CHECK(MUST(destination.reader.next(*ends.in)).event == Event::kPages);
  CHECK(std::ranges::equal(page_of(*destination.ram, 0), before));
}
