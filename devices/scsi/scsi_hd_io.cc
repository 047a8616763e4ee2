// ScsiHd's commands that change and check blocks. [SBC-3 5]
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "block/aligned_buffer.h"
#include "devices/scsi/scsi_hd.h"
#include "devices/scsi/scsi_memory.h"

namespace rhea::devices {
namespace {

using block::AlignedBuffer;
using block::IoVector;
using block::RequestKind;
using block::WriteFlags;
using Operation = IoError::Operation;

constexpr uint8_t kForceUnitAccess = 0x08;
constexpr uint8_t kByteCheck = 0x02;
constexpr uint8_t kUnmapBit = 0x08, kNoDataOut = 0x01;

/// The most memory that one command takes for data of its own, a multiple of every block size.
constexpr uint64_t kBufferBytes = 256 * 1024;
constexpr size_t kBufferAlignment = 4096;
/// How much is zeroed before somebody looks whether the command is still wanted.
constexpr uint64_t kZeroStepBytes = 64 * 1024 * 1024;

// The list of UNMAP. [SBC-3]
constexpr size_t kUnmapHeader = 8, kUnmapDescriptor = 16;
// GET LBA STATUS. [SBC-3]
constexpr size_t kStatusHeader = 8, kStatusDescriptor = 16;
constexpr uint64_t kMostStatusRanges = 64;
static_assert(kStatusHeader + kMostStatusRanges * kStatusDescriptor <= ScsiReply::kMostBytes);
constexpr uint8_t kMapped = 0, kDeallocated = 1;

uint64_t be(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (const uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

}  // namespace

ScsiOutcome ScsiHd::do_write(Co& co, ScsiRequest& request, WriteFlags flags) {
  const ScsiCdb::Range range = ScsiCdb(request.cdb).range();
  if (const auto bad = check_range(co, range, RequestKind::kWrite)) return *bad;
  const uint64_t bytes = range.blocks * block_size();
  if (bytes > request.data_out.size) return overrun();
  const ScsiMemory memory(request.data_out, bytes);
  const Step step{Operation::kWrite, range.lba};
  if (const auto bad = attempt(co, request, step, [&] {
        return backend().co_write(co, range.lba * block_size(), memory.view(), flags);
      })) {
    return *bad;
  }
  return ScsiOutcome::good(bytes);
}

ScsiOutcome ScsiHd::write(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const bool forced = cdb.size() > 6 && cdb.has(1, kForceUnitAccess);
  return do_write(co, request, forced ? WriteFlags::kForceUnitAccess : WriteFlags::kNone);
}

ScsiOutcome ScsiHd::write_and_verify(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const ScsiOutcome written = do_write(co, request, WriteFlags::kForceUnitAccess);
  if (written.end != ScsiOutcome::End::kCompleted || written.status != ScsiStatus::kGood) {
    return written;
  }
  if (const auto bad = read_back(co, request, cdb.range(), cdb.has(1, kByteCheck))) return *bad;
  return written;
}

ScsiOutcome ScsiHd::verify(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const ScsiCdb::Range range = cdb.range();
  const bool compares = cdb.has(1, kByteCheck);
  if (const auto bad = check_range(co, range, RequestKind::kRead)) return *bad;
  const uint64_t bytes = compares ? range.blocks * block_size() : 0;
  if (bytes > request.data_out.size) return overrun();
  if (const auto bad = read_back(co, request, range, compares)) return *bad;
  return ScsiOutcome::good(bytes);
}

/// Reads the blocks, and compares them with what the initiator has sent.
std::optional<ScsiOutcome> ScsiHd::read_back(Co& co, ScsiRequest& request,
                                             const ScsiCdb::Range& range, bool compares) {
  const uint64_t size = range.blocks * block_size(), at = range.lba * block_size();
  if (size == 0) return std::nullopt;
  const uint64_t room = std::min(size, kBufferBytes);
  AlignedBuffer medium(room, kBufferAlignment);
  std::optional<AlignedBuffer> expected;
  if (compares) expected.emplace(room, kBufferAlignment);
  for (uint64_t done = 0; done < size;) {
    if (request.cancelled()) return cancelled(request);
    const uint64_t bytes = std::min(room, size - done);
    const iovec piece = medium.piece(bytes);
    const Step step{Operation::kRead, (at + done) / block_size()};
    if (auto bad = attempt(co, request, step, [&] {
          return backend().co_read(co, at + done, IoVector::of(std::span(&piece, 1)));
        })) {
      return bad;
    }
    if (compares) {
      request.data_out.copy_to(done, expected->bytes().first(bytes));
      if (std::memcmp(medium.bytes().data(), expected->bytes().data(), bytes) != 0) {
        return ScsiOutcome::check(sense::kMiscompareVerify);
      }
    }
    done += bytes;
  }
  return std::nullopt;
}

ScsiOutcome ScsiHd::write_same(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const ScsiCdb::Range range = cdb.range();
  const bool unmaps = cdb.has(1, kUnmapBit), no_data = cdb.has(1, kNoDataOut);
  if (unmaps && !gives_space_back()) return ScsiOutcome::check(sense::kInvalidField);
  if (range.blocks == 0 || range.blocks > kMostWriteSameBytes / block_size()) {
    return ScsiOutcome::check(sense::kInvalidField);
  }
  if (const auto bad = check_range(co, range, RequestKind::kWrite)) return *bad;
  if (no_data) {
    const auto flags = unmaps ? WriteFlags::kMayUnmap : WriteFlags::kNone;
    if (const auto bad = write_zeroes(co, request, range, flags)) return *bad;
    return ScsiOutcome::good(0);
  }
  if (block_size() > request.data_out.size) return overrun();
  if (const auto bad = write_pattern(co, request, range)) return *bad;
  return ScsiOutcome::good(block_size());
}

std::optional<ScsiOutcome> ScsiHd::write_zeroes(Co& co, ScsiRequest& request,
                                                const ScsiCdb::Range& range, WriteFlags flags) {
  const uint64_t size = range.blocks * block_size(), at = range.lba * block_size();
  for (uint64_t done = 0; done < size;) {
    if (request.cancelled()) return cancelled(request);
    const uint64_t bytes = std::min(kZeroStepBytes, size - done);
    const Step step{Operation::kWrite, (at + done) / block_size()};
    if (auto bad = attempt(co, request, step, [&] {
          return backend().co_write_zeroes(co, at + done, bytes, flags);
        })) {
      return bad;
    }
    done += bytes;
  }
  return std::nullopt;
}

/// The initiator's block over the whole range. Zeroes may be given back; anything else is written,
/// whatever the UNMAP bit says, because afterwards the blocks have to read like it.
std::optional<ScsiOutcome> ScsiHd::write_pattern(Co& co, ScsiRequest& request,
                                                 const ScsiCdb::Range& range) {
  const uint64_t size = range.blocks * block_size(), at = range.lba * block_size();
  AlignedBuffer buffer(std::min(size, kBufferBytes), kBufferAlignment);
  const auto pattern = buffer.bytes();
  request.data_out.copy_to(0, pattern.first(block_size()));
  const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
  if (std::ranges::all_of(pattern.first(block_size()), is_zero)) {
    const bool unmaps = ScsiCdb(request.cdb).has(1, kUnmapBit);
    return write_zeroes(co, request, range, unmaps ? WriteFlags::kMayUnmap : WriteFlags::kNone);
  }
  for (size_t to = block_size(); to < pattern.size(); to += block_size()) {
    std::memcpy(pattern.data() + to, pattern.data(), block_size());
  }
  for (uint64_t done = 0; done < size;) {
    if (request.cancelled()) return cancelled(request);
    const uint64_t bytes = std::min<uint64_t>(pattern.size(), size - done);
    const iovec piece = buffer.piece(bytes);
    const Step step{Operation::kWrite, (at + done) / block_size()};
    if (auto bad = attempt(co, request, step, [&] {
          return backend().co_write(co, at + done, IoVector::of(std::span(&piece, 1)));
        })) {
      return bad;
    }
    done += bytes;
  }
  return std::nullopt;
}

/// All of the list is looked at before any of it is carried out, in a copy that the guest can not
/// change.
ScsiOutcome ScsiHd::unmap(Co& co, ScsiRequest& request) {
  const uint32_t length = ScsiCdb(request.cdb).list_length();
  if (length > request.data_out.size) return overrun();
  if (length == 0) return ScsiOutcome::good(0);
  if (length < kUnmapHeader) return ScsiOutcome::check(sense::kParameterListLength);
  std::array<uint8_t, kUnmapHeader + kMostUnmapRanges * kUnmapDescriptor> copy{};
  const auto list = std::span(copy).first(std::min<size_t>(length, copy.size()));
  request.data_out.copy_to(0, std::as_writable_bytes(list));
  const uint64_t listed = be(list.subspan(2, 2));
  if (listed > length - kUnmapHeader) return ScsiOutcome::check(sense::kParameterListLength);
  const size_t count = listed / kUnmapDescriptor;  // a last one that is cut off does not count
  if (count > kMostUnmapRanges) return ScsiOutcome::check(sense::kInvalidParameter);
  const auto range_at = [&](size_t i) {
    const auto bytes = list.subspan(kUnmapHeader + i * kUnmapDescriptor, kUnmapDescriptor);
    return ScsiCdb::Range{be(bytes.first(8)), be(bytes.subspan(8, 4))};
  };
  uint64_t all = 0;
  for (size_t i = 0; i < count; ++i) {
    if (const auto bad = check_range(co, range_at(i), RequestKind::kDiscard)) return *bad;
    all += range_at(i).blocks;
  }
  if (all > kMostUnmapBytes / block_size()) return ScsiOutcome::check(sense::kInvalidParameter);
  for (size_t i = 0; i < count; ++i) {
    if (request.cancelled()) return cancelled(request);
    const ScsiCdb::Range range = range_at(i);
    if (const auto bad = attempt(co, request, {Operation::kWrite, range.lba}, [&] {
          return backend().co_discard(co, range.lba * block_size(), range.blocks * block_size());
        })) {
      return *bad;
    }
  }
  return ScsiOutcome::good(length);
}

ScsiOutcome ScsiHd::get_lba_status(Co& co, ScsiRequest& request) {
  const ScsiCdb cdb(request.cdb);
  const uint64_t first = cdb.be(2, 8), all = blocks();
  if (first >= all) return ScsiOutcome::check(sense::kLbaOutOfRange);
  const uint64_t room = cdb.list_length();
  // One at least: the standard has no reply without. Whatever is cut off is the initiator's choice.
  const uint64_t most = std::clamp<uint64_t>(
      room > kStatusHeader ? (room - kStatusHeader) / kStatusDescriptor : 0, 1, kMostStatusRanges);
  ScsiReply reply;
  reply.put_zeros(kStatusHeader);
  uint64_t at = first;
  for (uint64_t ranges = 0; at < all && ranges < most; ++ranges) {
    if (request.cancelled()) return cancelled(request);
    // As many as a descriptor can tell of.
    const uint64_t wanted = std::min<uint64_t>(all - at, UINT32_MAX);
    block::BlockStatus status;
    if (const auto bad = attempt(co, request, {Operation::kRead, at}, [&]() -> Result<void> {
          status = TRY(backend().co_status(co, at * block_size(), wanted * block_size()));
          return ok();
        })) {
      return *bad;
    }
    // An image that is not made of such blocks: what a block is not wholly without, it has.
    uint64_t alike = status.bytes / block_size();
    if (alike == 0) {
      alike = 1;
      status.data = true;
    }
    reply.put64(at);
    reply.put32(alike);
    reply.put8(status.data ? kMapped : kDeallocated);
    reply.put_zeros(3);
    at += alike;
  }
  reply.set32(0, reply.size() - 4);
  return answer(request, reply, room);
}

}  // namespace rhea::devices
