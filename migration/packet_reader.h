// PacketReader: one channel's packets, put into guest RAM.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migration/arriving_ram.h"
#include "migration/channel.h"
#include "migration/multifd_packet.h"
#include "util/endian.h"
#include "util/error.h"

struct ZSTD_DCtx_s;

namespace rhea::migration {

/// What a channel's first packet says.
struct MultifdHello {
  unsigned channel = 0;
  uint64_t session = 0;
};
/// Errors: kCorrupt when something else comes; those of the channel.
Result<MultifdHello> read_hello(Channel& in);

/// Thread: one. Invariants: `ram` outlives it. Starts behind the hello.
/// Errors: kCorrupt for whatever does not follow the format, naming the packet; those of `ram`;
/// then pages of the packet may have been stored already. Nothing outside of `ram` is ever written,
/// and nothing is allocated on the peer's word.
class PacketReader {
 public:
  PacketReader(unsigned channel, ArrivingRam& ram);
  ~PacketReader();
  PacketReader(const PacketReader&) = delete;
  PacketReader& operator=(const PacketReader&) = delete;

  struct Received {
    enum class Event : uint8_t { kEnded, kPages, kSync };
    Event event = Event::kEnded;
    uint64_t sync = 0;
    uint32_t normal_pages = 0;
    uint32_t empty_pages = 0;
  };
  /// Takes one packet. kEnded where the stream ends between two.
  Result<Received> next(Channel& in);

 private:
  Result<void> check_place(const PacketHeader& header);
  Result<void> take_pages(Channel& in, const PacketHeader& header);
  Result<void> read_indices(Channel& in, const PacketHeader& header);
  /// The normal pages as runs of neighbours in guest RAM, with room for them.
  Result<std::span<iovec>> runs_of(const PacketHeader& header);
  Result<void> read_plain(Channel& in, const PacketHeader& header);
  Result<void> read_compressed(Channel& in, const PacketHeader& header);

  struct FreeContext {
    void operator()(ZSTD_DCtx_s* context) const noexcept;
  };

  const unsigned channel_;
  ArrivingRam& ram_;
  uint64_t sequence_ = 1;  // 0 was the hello
  uint64_t syncs_ = 0;
  std::array<le32, kPacketPages> indices_{};
  std::array<iovec, kPacketPages> runs_{};
  // From the first compressed packet on.
  std::vector<std::byte> compressed_;
  std::vector<std::byte> plain_;
  std::unique_ptr<ZSTD_DCtx_s, FreeContext> zstd_;
};

}  // namespace rhea::migration
