#include "migration/multifd_packet.h"

#include <bit>
#include <cstring>
#include <limits>

#include "util/crc32c.h"
#include "util/endian.h"

namespace rhea::migration {
namespace {

struct WireHeader {
  le32 magic;
  le16 version;
  uint8_t type = 0;
  uint8_t flags = 0;
  le16 channel;
  le16 zero_a;
  le32 block;
  le64 sequence;
  le64 number;
  le32 normal_pages;
  le32 empty_pages;
  le32 payload_bytes;
  le32 index_crc;
  le32 payload_crc;
  le64 zero_b;
  le32 header_crc;
};
static_assert(sizeof(WireHeader) == kPacketHeaderBytes);

uint32_t crc_of(const PacketHeaderBytes& bytes) {
  return crc32c(std::span(bytes).first(kPacketHeaderBytes - sizeof(le32)));
}

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorKind::kCorrupt, format, std::forward<Args>(args)...);
}

Result<void> check_frame(const WireHeader& wire, const PacketHeaderBytes& bytes) {
  if (wire.magic != kPacketMagic) {
    return corrupt("not a multifd packet (magic {:#x})", wire.magic.value());
  }
  if (wire.version != kPacketVersion) {
    return corrupt("multifd version {}, this is version {}", wire.version.value(), kPacketVersion);
  }
  if (wire.header_crc != crc_of(bytes)) return corrupt("checksum of a packet's header is wrong");
  if (wire.type < static_cast<uint8_t>(PacketType::kHello) ||
      wire.type > static_cast<uint8_t>(PacketType::kSync)) {
    return corrupt("unknown packet type {}", wire.type);
  }
  if ((wire.flags & ~(kPayloadCrc | kZstd)) != 0) {
    return corrupt("unknown packet flags {:#x}", wire.flags);
  }
  if (wire.zero_a != 0 || wire.zero_b != 0) return corrupt("reserved fields are not zero");
  return ok();
}

Result<void> check_counts(const PacketHeader& h) {
  if (h.type != PacketType::kPages) {
    if (h.flags != 0 || h.block != 0 || h.normal_pages != 0 || h.empty_pages != 0 ||
        h.payload_bytes != 0 || h.index_crc != 0 || h.payload_crc != 0) {
      return corrupt("pages in a packet that has none");
    }
    return ok();
  }
  if (h.number != 0) return corrupt("a packet of pages with a number");
  const uint64_t pages = uint64_t{h.normal_pages} + h.empty_pages;
  if (pages == 0 || pages > kPacketPages) return corrupt("{} pages in a packet", pages);
  const uint64_t plain_bytes = uint64_t{h.normal_pages} * kPageBytes;
  const bool compressed = (h.flags & kZstd) != 0;
  // What does not become smaller is sent as it is.
  const bool fits = compressed ? h.payload_bytes != 0 && h.payload_bytes < plain_bytes
                               : h.payload_bytes == plain_bytes;
  if (!fits) {
    return corrupt("{} bytes of {}payload for {} pages", h.payload_bytes,
                   compressed ? "compressed " : "", h.normal_pages);
  }
  if ((h.flags & kPayloadCrc) == 0 && h.payload_crc != 0) return corrupt("an unannounced checksum");
  return ok();
}

}  // namespace

Result<void> check_ram(std::span<const RamView> ram) {
  for (const RamView& view : ram) {
    RHEA_CHECK(view.bytes.size() % kPageBytes == 0, "RAM is made of pages");
    if (view.pages() > std::numeric_limits<uint32_t>::max()) {
      return fail(ErrorKind::kInvalidArgument, "a RAM block of {} bytes is too large to migrate",
                  view.bytes.size());
    }
  }
  return ok();
}

PacketHeaderBytes encode_header(const PacketHeader& header) {
  WireHeader wire;
  wire.magic = kPacketMagic;
  wire.version = kPacketVersion;
  wire.type = static_cast<uint8_t>(header.type);
  wire.flags = header.flags;
  wire.channel = header.channel;
  wire.block = header.block;
  wire.sequence = header.sequence;
  wire.number = header.number;
  wire.normal_pages = header.normal_pages;
  wire.empty_pages = header.empty_pages;
  wire.payload_bytes = header.payload_bytes;
  wire.index_crc = header.index_crc;
  wire.payload_crc = header.payload_crc;
  wire.header_crc = crc_of(std::bit_cast<PacketHeaderBytes>(wire));
  return std::bit_cast<PacketHeaderBytes>(wire);
}

Result<PacketHeader> decode_header(const PacketHeaderBytes& bytes) {
  const auto wire = std::bit_cast<WireHeader>(bytes);
  TRY(check_frame(wire, bytes));
  PacketHeader header;
  header.type = static_cast<PacketType>(wire.type);
  header.flags = wire.flags;
  header.channel = wire.channel;
  header.block = wire.block;
  header.sequence = wire.sequence;
  header.number = wire.number;
  header.normal_pages = wire.normal_pages;
  header.empty_pages = wire.empty_pages;
  header.payload_bytes = wire.payload_bytes;
  header.index_crc = wire.index_crc;
  header.payload_crc = wire.payload_crc;
  TRY(check_counts(header));
  return header;
}

}  // namespace rhea::migration
