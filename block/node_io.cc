// Node's requests: between what users ask and what the driver takes.
#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <vector>

#include "block/aligned_buffer.h"
#include "block/graph.h"
#include "block/node.h"
#include "util/check.h"

namespace rhea::block {
namespace {

/// The most memory that one padded request takes; larger ones go in steps.
constexpr uint64_t kBounceBytes = uint64_t{1} << 20;
constexpr size_t kMinBufferAlignment = 4096;

constexpr uint64_t round_down(uint64_t value, uint64_t alignment) {
  return value & ~(alignment - 1);
}
constexpr uint64_t round_up(uint64_t value, uint64_t alignment) {
  return round_down(value + alignment - 1, alignment);
}

}  // namespace

Result<void> Node::check_range(uint64_t offset, uint64_t size) const {
  const uint64_t length = this->length();
  if (offset > length || size > length - offset) {
    return fail(ErrorKind::kInvalidArgument, "{} bytes at {} are outside node '{}' of {} bytes",
                size, offset, name(), length);
  }
  return ok();
}

Result<void> Node::check_changeable() const {
  if (options_.read_only) {
    return fail(ErrorKind::kPermission, "Block node '{}' is read-only", name());
  }
  if (active()) return ok();
  return Error(ErrorKind::kPermission,
               fmt::format("Block node '{}' is inactive: its image is another process's", name()),
               EPERM);
}

Result<void> Node::check_writable(uint64_t offset, uint64_t size) const {
  TRY(check_changeable());
  return check_range(offset, size);
}

/// Whether the driver takes `memory` as it is.
bool Node::suits(IoVector memory) const noexcept {
  if (memory.pieces.size() > limits_.max_pieces) return false;
  if (limits_.max_transfer != 0 && memory.size > limits_.max_transfer) return false;
  const uint64_t address = limits_.memory_alignment;
  return address == 1 ||
         memory.aligned(address, std::min<uint64_t>(address, limits_.request_alignment));
}

/// How much is copied at once where memory or range do not suit the driver.
uint64_t Node::bounce_bytes() const noexcept {
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t most = limits_.max_transfer != 0 ? limits_.max_transfer : kBounceBytes;
  return std::max(round_down(std::min(most, kBounceBytes), alignment), alignment);
}

size_t Node::bounce_alignment() const noexcept {
  return std::max<size_t>(kMinBufferAlignment, limits_.memory_alignment);
}

/// As much of a request's memory from `done` on as the driver may take at once; its size, which is
/// 0 if a block is in more pieces than that.
uint64_t Node::cut(IoVector memory, uint64_t done, std::span<iovec> out, IoVector& part) const {
  uint64_t skip = done, size = 0;
  size_t pieces = 0;
  for (const iovec& piece : memory.pieces) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    if (pieces++ == std::min<size_t>(limits_.max_pieces, out.size())) break;
    size += piece.iov_len - skip;
    skip = 0;
  }
  if (limits_.max_transfer != 0) size = std::min(size, limits_.max_transfer);
  if (size < memory.size - done) size = round_down(size, limits_.request_alignment);
  part = {out.first(memory.slice(done, size, out)), size};
  return size;
}

Result<void> Node::transfer(Co& co, const Transfer& what, uint64_t offset, IoVector memory) {
  if (suits(memory)) [[likely]]
    return call_driver(co, what, offset, memory);
  return transfer_parts(co, what, offset, memory);
}

Result<void> Node::call_driver(Co& co, const Transfer& what, uint64_t offset, IoVector memory) {
  return what.kind == Transfer::Kind::kRead ? driver_->co_read(co, offset, memory)
                                            : driver_->co_write(co, offset, memory, what.flags);
}

/// Part by part, and by a copy what does not suit the driver.
Result<void> Node::transfer_parts(Co& co, const Transfer& what, uint64_t offset, IoVector memory) {
  std::array<iovec, 1024> pieces;
  std::optional<AlignedBuffer> buffer;
  for (uint64_t done = 0; done < memory.size;) {
    IoVector part;
    uint64_t size = cut(memory, done, pieces, part);
    if (size != 0 && suits(part)) {
      TRY(call_driver(co, what, offset + done, part));
      done += size;
      continue;
    }
    size = std::min(bounce_bytes(), memory.size - done);
    if (!buffer) buffer.emplace(size, bounce_alignment());
    const bool reads = what.kind == Transfer::Kind::kRead;
    const iovec piece = buffer->piece(size);
    if (!reads) memory.copy_to(done, buffer->bytes().first(size));
    TRY(call_driver(co, what, offset + done, IoVector::of(std::span(&piece, 1))));
    if (reads) memory.copy_from(done, buffer->bytes().first(size));
    done += size;
  }
  return ok();
}

Result<void> Node::co_read(Co& co, uint64_t offset, IoVector memory) {
  TRY(check_range(offset, memory.size));
  if (memory.size == 0) return ok();
  if (((offset | memory.size) & (limits_.request_alignment - 1)) == 0) [[likely]]
    return transfer(co, {.kind = Transfer::Kind::kRead}, offset, memory);
  return read_padded(co, offset, memory);
}

Result<void> Node::read_padded(Co& co, uint64_t offset, IoVector memory) {
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t end = offset + memory.size;
  const uint64_t room = bounce_bytes();
  AlignedBuffer buffer(std::min(room, round_up(end, alignment) - round_down(offset, alignment)),
                       bounce_alignment());
  for (uint64_t at = offset; at < end;) {
    const uint64_t from = round_down(at, alignment);
    const uint64_t to = std::min(from + room, round_up(end, alignment));
    const iovec piece = buffer.piece(to - from);
    TRY(driver_->co_read(co, from, IoVector::of(std::span(&piece, 1))));
    const uint64_t size = std::min(to, end) - at;
    memory.copy_from(at - offset, buffer.bytes().subspan(at - from, size));
    at += size;
  }
  return ok();
}

Result<void> Node::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  TRY(check_writable(offset, memory.size));
  if (memory.size == 0) return ok();
  const bool flush_after = has(flags, WriteFlags::kForceUnitAccess) &&
                           !has(driver_->write_flags(), WriteFlags::kForceUnitAccess);
  const WriteFlags taken = flush_after ? WriteFlags::kNone : flags;
  TRY(write_padded(co, offset, memory, taken));
  return flush_after ? co_flush(co) : ok();
}

Result<void> Node::write_padded(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  const uint64_t alignment = limits_.request_alignment;
  const Transfer what{.kind = Transfer::Kind::kWrite, .flags = flags};
  if (alignment == 1) return transfer(co, what, offset, memory);
  if (((offset | memory.size) & (alignment - 1)) != 0) return modify(co, offset, memory, flags);
  writes_.enter(co);
  auto result = transfer(co, what, offset, memory);
  writes_.leave(co);
  return result;
}

/// A write that does not cover whole blocks reads, modifies and writes them, with no other write to
/// the node meanwhile. Only overlapping ones would have to wait; but such writes come from odd
/// users (a guest's are whole sectors), and this way nobody else pays for a list of requests.
Result<void> Node::modify(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  CoMutexLock lock(co, modifying_);
  writes_.shut();
  writes_.wait_until_empty(co);
  auto result = modify_alone(co, offset, memory, flags);
  writes_.open();
  return result;
}

Result<void> Node::modify_alone(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t end = offset + memory.size;
  const uint64_t room = bounce_bytes();
  AlignedBuffer buffer(std::min(room, round_up(end, alignment) - round_down(offset, alignment)),
                       bounce_alignment());
  AlignedBuffer block(alignment, bounce_alignment());
  const auto read_block = [&](uint64_t from, uint64_t place) -> Result<void> {
    graph_lock.assert_reading();
    const iovec piece = block.piece(alignment);
    TRY(driver_->co_read(co, from, IoVector::of(std::span(&piece, 1))));
    std::ranges::copy(block.bytes(), buffer.bytes().subspan(place).begin());
    return ok();
  };
  for (uint64_t at = offset; at < end;) {
    const uint64_t from = round_down(at, alignment);
    const uint64_t to = std::min(from + room, round_up(end, alignment));
    const uint64_t size = std::min(to, end) - at;
    // The first and the last block, where the data does not cover them; once if they are the same.
    const bool head = from != at, tail = at + size != to;
    if (head) TRY(read_block(from, 0));
    if (tail && !(head && to - from == alignment)) {
      TRY(read_block(to - alignment, to - from - alignment));
    }
    memory.copy_to(at - offset, buffer.bytes().subspan(at - from, size));
    const iovec piece = buffer.piece(to - from);
    TRY(driver_->co_write(co, from, IoVector::of(std::span(&piece, 1)), flags));
    at += size;
  }
  return ok();
}

Result<void> Node::co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  TRY(check_writable(offset, size));
  const bool flush_after = has(flags, WriteFlags::kForceUnitAccess) &&
                           !(has(driver_->zero_flags(), WriteFlags::kForceUnitAccess) &&
                             has(driver_->write_flags(), WriteFlags::kForceUnitAccess));
  auto taken = static_cast<uint8_t>(flags);
  if (flush_after)
    taken &= static_cast<uint8_t>(~static_cast<uint8_t>(WriteFlags::kForceUnitAccess));
  const uint64_t alignment = limits_.request_alignment;
  const uint64_t end = offset + size;
  const uint64_t from = std::min(round_up(offset, alignment), end);
  const uint64_t to = std::max(round_down(end, alignment), from);
  const auto inner = static_cast<WriteFlags>(taken);
  if (offset < from) TRY(write_zero_bytes(co, offset, from - offset, inner));
  if (from < to) TRY(zero_aligned(co, from, to - from, inner));
  if (to < end) TRY(write_zero_bytes(co, to, end - to, inner));
  return flush_after ? co_flush(co) : ok();
}

Result<void> Node::zero_aligned(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  const uint64_t most = limits_.max_write_zeroes != 0 ? limits_.max_write_zeroes : size;
  const bool gated = limits_.request_alignment != 1;
  while (size != 0) {
    const uint64_t step = std::min(size, most);
    if (gated) writes_.enter(co);
    auto result = driver_->co_write_zeroes(co, offset, step, flags);
    if (gated) writes_.leave(co);
    if (!result && result.error().kind() == ErrorKind::kUnsupported &&
        !has(flags, WriteFlags::kNoFallback)) {
      return write_zero_bytes(co, offset, size, flags);
    }
    TRY(std::move(result));
    offset += step;
    size -= step;
  }
  return ok();
}

Result<void> Node::write_zero_bytes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  const bool force = has(flags, WriteFlags::kForceUnitAccess);
  AlignedBuffer zeroes(std::min(size, kBounceBytes), bounce_alignment());
  std::ranges::fill(zeroes.bytes(), std::byte{0});
  while (size != 0) {
    const uint64_t step = std::min(size, kBounceBytes);
    const iovec piece = zeroes.piece(step);
    TRY(write_padded(co, offset, IoVector::of(std::span(&piece, 1)),
                     force ? WriteFlags::kForceUnitAccess : WriteFlags::kNone));
    offset += step;
    size -= step;
  }
  return ok();
}

Result<void> Node::co_discard(Co& co, uint64_t offset, uint64_t size) {
  TRY(check_writable(offset, size));
  if (!options_.discard) return ok();
  const uint64_t alignment = std::max(limits_.request_alignment, limits_.discard_alignment);
  const uint64_t end = round_down(offset + size, alignment);
  uint64_t at = round_up(offset, alignment);
  while (at < end) {
    const uint64_t step =
        limits_.max_discard != 0 ? std::min(end - at, limits_.max_discard) : end - at;
    auto result = driver_->co_discard(co, at, step);
    if (!result && result.error().kind() == ErrorKind::kUnsupported) return ok();
    TRY(std::move(result));
    at += step;
  }
  return ok();
}

Result<void> Node::co_flush(Co& co) {
  // Inactive, it was flushed before, and what its image's owner does is not ours to flush.
  if (options_.cache_no_flush || !active()) return ok();
  return driver_->co_flush(co);
}

Result<BlockStatus> Node::co_status(Co& co, uint64_t offset, uint64_t size) {
  TRY(check_range(offset, size));
  if (size == 0) return BlockStatus{};
  BlockStatus status = TRY(driver_->co_status(co, offset, size));
  RHEA_CHECK(status.bytes != 0, "the driver of '{}' says nothing of {} bytes", name(), size);
  status.bytes = std::min(status.bytes, size);
  return status;
}

Result<void> Node::co_resize(Co& co, uint64_t size) {
  TRY(check_changeable());
  return driver_->co_resize(co, size);
}

}  // namespace rhea::block
