// PacketWriter: one channel's packets, made of pages of guest RAM.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migration/channel.h"
#include "migration/leaving_ram.h"
#include "migration/multifd_packet.h"
#include "util/endian.h"
#include "util/error.h"

struct ZSTD_CCtx_s;

namespace rhea::migration {

struct PacketOptions {
  enum class Compression : uint8_t { kNone, kZstd };
  enum class Checksum : uint8_t { kHeaders, kPayload };

  Compression compression = Compression::kNone;
  int zstd_level = 1;  ///< 1 .. 20; 0: as zstd thinks best
  Checksum checksum = Checksum::kHeaders;
};

/// Thread: one. Invariants: `ram` outlives it; packets go to one channel, in order, from the hello.
/// Errors: those of the channel; after one it is of no more use.
class PacketWriter {
 public:
  static Result<std::unique_ptr<PacketWriter>> create(unsigned channel,
                                                      std::span<const RamView> ram,
                                                      const PacketOptions& options);
  ~PacketWriter();
  PacketWriter(const PacketWriter&) = delete;
  PacketWriter& operator=(const PacketWriter&) = delete;

  Result<void> hello(Channel& out, uint64_t session);
  Result<void> sync(Channel& out, uint64_t number);

  struct Written {
    uint32_t normal_pages = 0;
    uint32_t empty_pages = 0;
  };
  /// Looks which pages are zero and writes all of them, with as few system calls as the stream
  /// takes. The pages lie inside the block, which exists.
  Result<Written> pages(Channel& out, const PageBatch& batch);

 private:
  PacketWriter(unsigned channel, std::span<const RamView> ram, const PacketOptions& options);

  Result<void> write_bare(Channel& out, PacketType type, uint64_t number);
  /// Fills indices_, normal pages first, and the counts.
  void sort_pages(PacketHeader& header, const PageBatch& batch);
  /// Adds the normal pages to parts_, straight from guest RAM, or a copy of them.
  Result<void> add_payload(PacketHeader& header, std::span<std::byte> ram);
  Result<std::span<std::byte>> compress(std::span<const std::byte> plain);
  void add_part(void* base, size_t bytes) { parts_[part_count_++] = {base, bytes}; }

  struct FreeContext {
    void operator()(ZSTD_CCtx_s* context) const noexcept;
  };

  const uint16_t channel_;
  const std::span<const RamView> ram_;
  LeavingRam leaving_;
  const PacketOptions options_;
  uint64_t sequence_ = 0;
  PacketHeaderBytes header_{};
  std::array<le32, kPacketPages> indices_{};
  std::array<iovec, 2 + kPacketPages> parts_{};
  size_t part_count_ = 0;
  // Only with a checksum or compression.
  std::vector<std::byte> copy_;
  std::vector<std::byte> compressed_;
  std::unique_ptr<ZSTD_CCtx_s, FreeContext> zstd_;
};

}  // namespace rhea::migration
