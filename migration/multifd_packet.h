// The packets of a multifd channel, and how pages get into and out of them.
//
// A channel carries a hello, then packets of pages and syncs, then ends. All numbers are
// little-endian; there is no padding:
//
//   packet  = header [pages]
//   header  = magic:4 version:2 type:1 flags:1 channel:2 zero:2 block:4 sequence:8 number:8
//             normal:4 empty:4 payload_bytes:4 index_crc:4 payload_crc:4 zero:8 header_crc:4
//   pages   = index:4 * (normal + empty)  payload
//   payload = 4096 bytes for each normal page, in the order of the indices; or, with flag
//             kZstd, one zstd frame of them
//
// `sequence` counts the packets of a channel from 0, the hello's. `number` is the session in a
// hello and the sync's number, from 1, in a sync. `normal` pages have content, `empty` ones are all
// zero.
//
// A guest that stores while a page is sent. The page's dirty bit was cleared before the page was
// queued, so such a store sets it again and the page is sent once more: any mix of old and new, and
// a "zero" that was true a moment ago, are good enough for now. Only two statements must agree with
// each other whatever the guest does, a checksum with the payload, and what zstd reads first with
// what it reads again. Both therefore work on a copy, taken once, and the copy is what is sent.
// Without them the kernel takes the bytes straight from guest RAM.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/ram_block.h"
#include "migration/zero_page.h"
#include "util/error.h"

namespace rhea::migration {

/// A block of guest RAM; on the wire it is its place in the list, the same on both sides.
struct RamView {
  enum class Content : uint8_t {
    kUnknown,
    kFresh,  ///< zero, but for the `touched` pages, until something is received
  };
  std::span<std::byte> bytes;
  Content content = Content::kUnknown;
  std::vector<bool> touched{};              ///< by page; empty: none
  const memory::RamBlock* block = nullptr;  ///< whose bytes these are, if they are a block's

  uint64_t pages() const noexcept { return bytes.size() / kPageBytes; }
};

inline RamView ram_view(const memory::RamBlock& block,
                        RamView::Content content = RamView::Content::kUnknown) {
  return {block.bytes(), content, {}, &block};
}

/// Errors: kInvalidArgument when an index on the wire could not name every page.
Result<void> check_ram(std::span<const RamView> ram);

enum class PacketType : uint8_t { kHello = 1, kPages = 2, kSync = 3 };

enum PacketFlag : uint8_t {
  kPayloadCrc = 1,  ///< payload_crc is that of the payload as it is sent
  kZstd = 2,        ///< the payload is a zstd frame
};

inline constexpr uint32_t kPacketMagic = 0x464d4852;  // "RHMF"
inline constexpr uint16_t kPacketVersion = 1;
inline constexpr size_t kPacketHeaderBytes = 64;
inline constexpr size_t kPacketPages = 512;
inline constexpr size_t kMaxPayloadBytes = kPacketPages * kPageBytes;
inline constexpr unsigned kMaxChannels = 255;

struct PacketHeader {
  PacketType type = PacketType::kPages;
  uint8_t flags = 0;
  uint16_t channel = 0;
  uint32_t block = 0;
  uint64_t sequence = 0;
  uint64_t number = 0;
  uint32_t normal_pages = 0;
  uint32_t empty_pages = 0;
  uint32_t payload_bytes = 0;
  uint32_t index_crc = 0;
  uint32_t payload_crc = 0;

  bool operator==(const PacketHeader&) const = default;
};

using PacketHeaderBytes = std::array<std::byte, kPacketHeaderBytes>;

PacketHeaderBytes encode_header(const PacketHeader& header);
/// All that can be said of a header without knowing the channel or the machine: what is returned
/// describes at most kPacketPages pages and kMaxPayloadBytes bytes. Errors: kCorrupt.
Result<PacketHeader> decode_header(const PacketHeaderBytes& bytes);

/// Pages of one block on their way to a channel.
struct PageBatch {
  uint32_t block = 0;
  uint32_t count = 0;
  std::array<uint32_t, kPacketPages> pages{};

  std::span<const uint32_t> indices() const { return {pages.data(), count}; }
};

}  // namespace rhea::migration
