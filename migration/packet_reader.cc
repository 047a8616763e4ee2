#include "migration/packet_reader.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "migration/internal/buffer.h"
#include "util/crc32c.h"
#include "util/sync_point.h"

namespace rhea::migration {
namespace {

using Event = PacketReader::Received::Event;

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorKind::kCorrupt, format, std::forward<Args>(args)...);
}

Error wrong_payload_crc() { return corrupt("checksum of a packet's pages is wrong"); }

}  // namespace

Result<MultifdHello> read_hello(Channel& in) {
  PacketHeaderBytes bytes;
  TRY(in.read(bytes));
  const PacketHeader header = TRY(decode_header(bytes));
  if (header.type != PacketType::kHello || header.sequence != 0) {
    return corrupt("a multifd channel starts without a hello");
  }
  return MultifdHello{header.channel, header.number};
}

void PacketReader::FreeContext::operator()(ZSTD_DCtx_s* context) const noexcept {
  ::ZSTD_freeDCtx(context);
}

PacketReader::PacketReader(unsigned channel, ArrivingRam& ram) : channel_(channel), ram_(ram) {}

PacketReader::~PacketReader() = default;

Result<PacketReader::Received> PacketReader::next(Channel& in) {
  PacketHeaderBytes bytes;
  if (!TRY(in.read_unless_ended(bytes))) return Received{};
  const auto take = [&]() -> Result<Received> {
    const PacketHeader header = TRY(decode_header(bytes));
    TRY(check_place(header));
    if (header.type == PacketType::kSync) return Received{Event::kSync, ++syncs_, 0, 0};
    TRY(take_pages(in, header));
    return Received{Event::kPages, 0, header.normal_pages, header.empty_pages};
  };
  auto received = take();
  if (!received) return std::move(received).error().context(fmt::format("packet {}", sequence_));
  ++sequence_;
  return received;
}

Result<void> PacketReader::check_place(const PacketHeader& header) {
  if (header.type == PacketType::kHello) return corrupt("a second hello");
  if (header.channel != channel_) return corrupt("it is of channel {}", header.channel);
  if (header.sequence != sequence_) return corrupt("it says it is packet {}", header.sequence);
  if (header.type == PacketType::kSync && header.number != syncs_ + 1) {
    return corrupt("sync {} after sync {}", header.number, syncs_);
  }
  if (header.type == PacketType::kPages && header.block >= ram_.views().size()) {
    return corrupt("there is no RAM block {}", header.block);
  }
  return ok();
}

Result<void> PacketReader::take_pages(Channel& in, const PacketHeader& header) {
  TRY(read_indices(in, header));
  if (header.normal_pages != 0) {
    RHEA_SYNC_POINT("multifd receiver: before a packet's pages");
    if ((header.flags & kZstd) != 0) {
      TRY(read_compressed(in, header));
    } else {
      TRY(read_plain(in, header));
    }
  }
  return ram_.clear(header.block,
                    std::span(indices_).subspan(header.normal_pages, header.empty_pages));
}

Result<void> PacketReader::read_indices(Channel& in, const PacketHeader& header) {
  const size_t count = header.normal_pages + header.empty_pages;
  const auto bytes = std::as_writable_bytes(std::span(indices_).first(count));
  TRY(in.read(bytes));
  if (crc32c(bytes) != header.index_crc) return corrupt("checksum of its page numbers is wrong");
  const uint64_t pages = ram_.views()[header.block].pages();
  for (size_t i = 0; i < count; ++i) {
    if (indices_[i] >= pages) {
      return corrupt("page {} of RAM block {}, which has {}", indices_[i].value(), header.block,
                     pages);
    }
  }
  return ok();
}

Result<std::span<iovec>> PacketReader::runs_of(const PacketHeader& header) {
  size_t count = 0;
  for (uint32_t i = 0, run = 1; i < header.normal_pages; i += run, run = 1) {
    while (i + run < header.normal_pages && indices_[i + run] == indices_[i] + run) ++run;
    TRY(ram_.make_room(header.block, indices_[i], run));
    runs_[count++] = {.iov_base = ram_.page(header.block, indices_[i]),
                      .iov_len = run * kPageBytes};
  }
  return std::span(runs_).first(count);
}

Result<void> PacketReader::read_plain(Channel& in, const PacketHeader& header) {
  const auto runs = TRY(runs_of(header));
  TRY(in.read(runs));
  if ((header.flags & kPayloadCrc) == 0) return ok();
  uint32_t crc = 0;
  for (uint32_t i = 0; i < header.normal_pages; ++i) {
    crc = crc32c(std::span(ram_.page(header.block, indices_[i]), kPageBytes), crc);
  }
  if (crc != header.payload_crc) return wrong_payload_crc();
  return ok();
}

Result<void> PacketReader::read_compressed(Channel& in, const PacketHeader& header) {
  if (zstd_ == nullptr) {
    compressed_ = TRY(internal::make_buffer<std::byte>(kMaxPayloadBytes));
    plain_ = TRY(internal::make_buffer<std::byte>(kMaxPayloadBytes));
    zstd_.reset(::ZSTD_createDCtx());
    if (zstd_ == nullptr) return fail(ErrorKind::kResource, "zstd: no memory");
  }
  const auto frame = std::span(compressed_).first(header.payload_bytes);
  TRY(in.read(frame));
  if ((header.flags & kPayloadCrc) != 0 && crc32c(frame) != header.payload_crc) {
    return wrong_payload_crc();
  }
  const auto plain = std::span(plain_).first(header.normal_pages * kPageBytes);
  // In one go into a buffer of the announced size: a frame can claim no memory beyond it.
  const size_t size =
      ::ZSTD_decompressDCtx(zstd_.get(), plain.data(), plain.size(), frame.data(), frame.size());
  if (::ZSTD_isError(size) != 0) return corrupt("zstd: {}", ::ZSTD_getErrorName(size));
  if (size != plain.size()) {
    return corrupt("{} pages decompress to {} bytes", header.normal_pages, size);
  }
  TRY(runs_of(header));
  for (uint32_t i = 0; i < header.normal_pages; ++i) {
    std::memcpy(ram_.page(header.block, indices_[i]), plain.data() + i * kPageBytes, kPageBytes);
  }
  return ok();
}

}  // namespace rhea::migration
