#include "migration/packet_writer.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <cstring>

#include "migration/internal/buffer.h"
#include "util/crc32c.h"
#include "util/sync_point.h"

namespace rhea::migration {
namespace {

using Page = std::span<const std::byte, kPageBytes>;

std::byte* page_at(std::span<std::byte> ram, uint32_t index) {
  return ram.data() + size_t{index} * kPageBytes;
}

}  // namespace

void PacketWriter::FreeContext::operator()(ZSTD_CCtx_s* context) const noexcept {
  ::ZSTD_freeCCtx(context);
}

PacketWriter::PacketWriter(unsigned channel, std::span<const RamView> ram,
                           const PacketOptions& options)
    : channel_(static_cast<uint16_t>(channel)), ram_(ram), leaving_(ram), options_(options) {}

PacketWriter::~PacketWriter() = default;

Result<std::unique_ptr<PacketWriter>> PacketWriter::create(unsigned channel,
                                                           std::span<const RamView> ram,
                                                           const PacketOptions& options) {
  TRY(check_ram(ram));
  std::unique_ptr<PacketWriter> writer(new PacketWriter(channel, ram, options));
  const bool compresses = options.compression == PacketOptions::Compression::kZstd;
  if (compresses || options.checksum == PacketOptions::Checksum::kPayload) {
    writer->copy_ = TRY(internal::make_buffer<std::byte>(kMaxPayloadBytes));
  }
  if (compresses) {
    writer->compressed_ = TRY(internal::make_buffer<std::byte>(kMaxPayloadBytes));
    writer->zstd_.reset(::ZSTD_createCCtx());
    if (writer->zstd_ == nullptr) return fail(ErrorKind::kResource, "zstd: no memory");
    const size_t set =
        ::ZSTD_CCtx_setParameter(writer->zstd_.get(), ZSTD_c_compressionLevel, options.zstd_level);
    if (::ZSTD_isError(set) != 0) {
      return fail(ErrorKind::kInvalidArgument, "zstd: level {}: {}", options.zstd_level,
                  ::ZSTD_getErrorName(set));
    }
  }
  return writer;
}

Result<void> PacketWriter::write_bare(Channel& out, PacketType type, uint64_t number) {
  PacketHeader header;
  header.type = type;
  header.channel = channel_;
  header.sequence = sequence_++;
  header.number = number;
  header_ = encode_header(header);
  return out.write(header_);
}

Result<void> PacketWriter::hello(Channel& out, uint64_t session) {
  return write_bare(out, PacketType::kHello, session);
}

Result<void> PacketWriter::sync(Channel& out, uint64_t number) {
  return write_bare(out, PacketType::kSync, number);
}

void PacketWriter::sort_pages(PacketHeader& header, const PageBatch& batch) {
  const std::span<std::byte> ram = ram_[header.block].bytes;
  std::array<uint32_t, kPacketPages> empty;
  leaving_.begin(header.block);
  for (uint32_t index : batch.indices()) {
    if (leaving_.is_hole(index) || is_zero_page(Page(page_at(ram, index), kPageBytes))) {
      empty[header.empty_pages++] = index;
    } else {
      indices_[header.normal_pages++] = index;
    }
  }
  for (size_t i = 0; i < header.empty_pages; ++i) indices_[header.normal_pages + i] = empty[i];
}

Result<std::span<std::byte>> PacketWriter::compress(std::span<const std::byte> plain) {
  // No room for more than the plain bytes: what would not fit is sent plain.
  const size_t size = ::ZSTD_compress2(zstd_.get(), compressed_.data(), plain.size() - 1,
                                       plain.data(), plain.size());
  if (::ZSTD_isError(size) == 0) return std::span(compressed_).first(size);
  if (::ZSTD_getErrorCode(size) == ZSTD_error_dstSize_tooSmall) return std::span<std::byte>();
  return fail(ErrorKind::kResource, "zstd: {}", ::ZSTD_getErrorName(size));
}

Result<void> PacketWriter::add_payload(PacketHeader& header, std::span<std::byte> ram) {
  header.payload_bytes = header.normal_pages * static_cast<uint32_t>(kPageBytes);
  if (header.normal_pages == 0) return ok();
  if (copy_.empty()) {
    for (uint32_t i = 0, run = 1; i < header.normal_pages; i += run, run = 1) {
      while (i + run < header.normal_pages && indices_[i + run] == indices_[i] + run) ++run;
      add_part(page_at(ram, indices_[i]), run * kPageBytes);
    }
    return ok();
  }
  for (uint32_t i = 0; i < header.normal_pages; ++i) {
    std::memcpy(copy_.data() + i * kPageBytes, page_at(ram, indices_[i]), kPageBytes);
  }
  std::span<std::byte> payload = std::span(copy_).first(header.payload_bytes);
  if (zstd_ != nullptr) {
    const auto compressed = TRY(compress(payload));
    if (!compressed.empty()) {
      payload = compressed;
      header.flags |= kZstd;
    }
  }
  if (options_.checksum == PacketOptions::Checksum::kPayload) {
    header.flags |= kPayloadCrc;
    header.payload_crc = crc32c(payload);
  }
  header.payload_bytes = static_cast<uint32_t>(payload.size());
  add_part(payload.data(), payload.size());
  return ok();
}

Result<PacketWriter::Written> PacketWriter::pages(Channel& out, const PageBatch& batch) {
  PacketHeader header;
  header.channel = channel_;
  header.block = batch.block;
  header.sequence = sequence_++;
  sort_pages(header, batch);
  const size_t index_bytes = batch.count * sizeof(le32);
  header.index_crc = crc32c(std::as_bytes(std::span(indices_)).first(index_bytes));

  part_count_ = 0;
  add_part(header_.data(), header_.size());
  add_part(indices_.data(), index_bytes);
  TRY(add_payload(header, ram_[batch.block].bytes));
  header_ = encode_header(header);
  RHEA_SYNC_POINT("multifd sender: before a packet's write");
  TRY(out.write(std::span(parts_).first(part_count_)));
  return Written{header.normal_pages, header.empty_pages};
}

}  // namespace rhea::migration
