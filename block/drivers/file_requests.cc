// file: its requests.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "block/drivers/file.h"
#include "block/node.h"
#include "util/check.h"

namespace rhea::block {
namespace {

/// What says that the host can not do it here, and not that it failed. EINVAL: some file systems.
bool is_unsupported(int64_t result) {
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY || result == -EINVAL;
}

}  // namespace

Error File::failed(std::string_view what, uint64_t offset, uint64_t size, int64_t result) const {
  return fail_errno(static_cast<int>(-result), "{} of {} bytes at {} of '{}'", what, size, offset,
                    options_.filename);
}

/// The node's front has refused such a request: here it would destroy another's data.
void File::check_active() const {
  RHEA_CHECK(node_->active(), "node '{}' changes an image that is not its own", node_->name());
}

Result<void> File::co_read(Co& co, uint64_t offset, IoVector memory) {
  const int64_t n = opened_.io->co_readv(co, memory.pieces, offset);
  if (n == static_cast<int64_t>(memory.size)) [[likely]]
    return ok();
  return read_rest(co, offset, memory, n);
}

/// After a first read that gave `last`: goes on until the end of the file, after which all is zero.
Result<void> File::read_rest(Co& co, uint64_t offset, IoVector memory, int64_t last) {
  std::vector<iovec> pieces(memory.pieces.size());
  uint64_t done = 0;
  for (;;) {
    if (last < 0) return failed("read", offset, memory.size, last);
    done += static_cast<uint64_t>(last);
    if (done == memory.size) return ok();
    // A direct read can not go on from the middle of a block; it stops there at the end only.
    const bool at_end = last == 0 || done % opened_.file.limits.request_alignment != 0;
    if (at_end && opened_.file.is_block_device) return failed("read", offset, memory.size, -EIO);
    if (at_end) break;
    const size_t count = memory.slice(done, memory.size - done, pieces);
    last = opened_.io->co_readv(co, std::span(pieces).first(count), offset + done);
  }
  memory.clear(done, memory.size - done);
  return ok();
}

Result<void> File::co_write(Co& co, uint64_t offset, IoVector memory, WriteFlags flags) {
  check_active();
  const int64_t n = has(flags, WriteFlags::kForceUnitAccess)
                        ? write_to_disk(co, memory.pieces, offset)
                        : opened_.io->co_writev(co, memory.pieces, offset, 0);
  if (n == static_cast<int64_t>(memory.size)) [[likely]]
    return ok();
  return write_rest(co, offset, memory, flags, n);
}

Result<void> File::write_rest(Co& co, uint64_t offset, IoVector memory, WriteFlags flags,
                              int64_t last) {
  std::vector<iovec> pieces(memory.pieces.size());
  uint64_t done = 0;
  for (;;) {
    if (last < 0) return failed("write", offset, memory.size, last);
    if (last == 0) return failed("write", offset, memory.size, -ENOSPC);
    done += static_cast<uint64_t>(last);
    if (done == memory.size) return ok();
    const size_t count = memory.slice(done, memory.size - done, pieces);
    const auto rest = std::span(pieces).first(count);
    last = has(flags, WriteFlags::kForceUnitAccess)
               ? write_to_disk(co, rest, offset + done)
               : opened_.io->co_writev(co, rest, offset + done, 0);
  }
}

/// Writing and syncing in one: an error may be of the sync, which tells of other writes that were
/// lost, too, and is told once. A full disk refuses the write itself: written again without the
/// sync it is refused again, and else it was the sync.
int64_t File::write_to_disk(Co& co, std::span<const iovec> pieces, uint64_t offset) {
  const int64_t n = opened_.io->co_writev(co, pieces, offset, RWF_DSYNC);
  if (n >= 0) return n;
  if (n == -ENOSPC || n == -EDQUOT) {
    const int64_t again = opened_.io->co_writev(co, pieces, offset, 0);
    if (again < 0) return again;
  }
  flush_failed(n);
  return n;
}

void File::flush_failed(int64_t result) noexcept {
  int none = 0;
  flush_errno_.compare_exchange_strong(none, static_cast<int>(-result));
}

Result<void> File::co_flush(Co& co) {
  // One that has begun already may have missed the last write: the next one serves. Whoever waited
  // while another ran that began after it asked has its answer.
  const uint64_t needed = flushes_begun_.load() + 1;
  CoMutexLock lock(co, flushing_);
  if (flushes_begun_.load() < needed && flush_errno_.load() == 0) {
    flushes_begun_.fetch_add(1);
    if (const int64_t n = opened_.io->co_fdatasync(co); n < 0) flush_failed(n);
  }
  if (const int error = flush_errno_.load(); error != 0) {
    return fail_errno(error, "flush of '{}' (writes may be lost; reopen to go on)",
                      options_.filename);
  }
  return ok();
}

/// fallocate(2), unless it is known that the host can not.
int64_t File::fallocate_if(Co& co, std::atomic<bool>& works, int mode, uint64_t offset,
                           uint64_t size) {
  // relaxed: nothing depends on it but how long it takes to hear no
  if (!works.load(std::memory_order_relaxed)) return -EOPNOTSUPP;
  const int64_t n = opened_.io->co_fallocate(co, mode, offset, size);
  if (n == -EOPNOTSUPP || n == -ENOSYS) works.store(false, std::memory_order_relaxed);
  return n;
}

int64_t File::zero(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  constexpr int kZero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  if (has(flags, WriteFlags::kMayUnmap) && node_->options().discard) {
    const int64_t n = fallocate_if(co, can_punch_, kPunch, offset, size);
    if (!is_unsupported(n)) return n;
  }
  const bool is_device = opened_.file.is_block_device;
  // The kernel would write zeroes to a device that can not do it by itself.
  if (is_device && has(flags, WriteFlags::kNoFallback)) return -EOPNOTSUPP;
  const int64_t n = fallocate_if(co, can_zero_range_, kZero, offset, size);
  if (!is_unsupported(n) || is_device) return n;
  // The space shall stay ours: given back and taken again.
  const int64_t punched = fallocate_if(co, can_punch_, kPunch, offset, size);
  if (punched < 0) return punched;
  return opened_.io->co_fallocate(co, FALLOC_FL_KEEP_SIZE, offset, size);
}

Result<void> File::co_write_zeroes(Co& co, uint64_t offset, uint64_t size, WriteFlags flags) {
  check_active();
  const int64_t n = zero(co, offset, size, flags);
  if (n >= 0) return ok();
  if (!is_unsupported(n)) return failed("write of zeroes", offset, size, n);
  return failed("write of zeroes", offset, size, -EOPNOTSUPP);
}

Result<void> File::co_discard(Co& co, uint64_t offset, uint64_t size) {
  check_active();
  const int64_t n =
      opened_.file.is_block_device
          ? opened_.io->co_call(co,
                                [&](int fd) {
                                  uint64_t range[2] = {offset, size};
                                  return ::ioctl(fd, BLKDISCARD, range);
                                })
          : fallocate_if(co, can_punch_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
  if (n >= 0) return ok();
  return failed("discard", offset, size, is_unsupported(n) ? -EOPNOTSUPP : n);
}

Result<void> File::co_resize(Co& co, uint64_t size) {
  check_active();
  if (opened_.file.is_block_device) {
    return fail(ErrorKind::kUnsupported, "Cannot resize device files");
  }
  if (size > static_cast<uint64_t>(INT64_MAX)) {
    return fail(ErrorKind::kInvalidArgument, "Image size {} is too large", size);
  }
  const int64_t n =
      opened_.io->co_call(co, [&](int fd) { return ::ftruncate(fd, static_cast<off_t>(size)); });
  if (n >= 0) return ok();
  return fail_errno(static_cast<int>(-n), "Failed to resize '{}'", options_.filename);
}

/// The file system's map of holes, in whole blocks of this node: one with both is data.
Result<BlockStatus> File::co_status(Co& co, uint64_t offset, uint64_t size) {
  const BlockStatus unknown{.bytes = size};
  if (opened_.file.is_block_device) return unknown;
  const uint64_t alignment = opened_.file.limits.request_alignment;
  const auto seek = [&](int whence) {
    return opened_.io->co_call(
        co, [&](int fd) { return ::lseek(fd, static_cast<off_t>(offset), whence); });
  };
  const int64_t data = seek(SEEK_DATA);
  // ENXIO: nothing but a hole up to the end, or behind it.
  if (data == -ENXIO) return BlockStatus{.bytes = size, .data = false, .zero = true};
  if (data < 0) return unknown;
  const uint64_t hole_end = static_cast<uint64_t>(data) & ~(alignment - 1);
  if (hole_end > offset) {
    return BlockStatus{.bytes = std::min(size, hole_end - offset), .data = false, .zero = true};
  }
  const int64_t hole = seek(SEEK_HOLE);
  if (hole < 0) return unknown;
  const uint64_t data_end = (static_cast<uint64_t>(hole) + alignment - 1) & ~(alignment - 1);
  // The file may have been cut between the two.
  if (data_end <= offset) return unknown;
  return BlockStatus{.bytes = std::min(size, data_end - offset)};
}

}  // namespace rhea::block
