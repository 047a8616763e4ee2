#include "block/internal/file_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace rhea::block::internal {

/// `by_ring(ring, file)` gives a count or -errno, `by_thread(fd)` is a system call.
template <class R, class T>
int64_t FileIo::submit(Co& co, R&& by_ring, T&& by_thread) {
  for (;;) {
    BlockContext& context = BlockContext::of(co);
    IoRing* ring = this->ring(context);
    const int64_t n =
        ring != nullptr ? by_ring(*ring, registered_.in(context, *ring)) : co_call(co, by_thread);
    if (n != -EINTR && n != -EAGAIN) [[likely]]
      return n;
    co.reschedule();  // so that a host which keeps saying so does not stop this context
  }
}

int64_t FileIo::co_readv(Co& co, std::span<const iovec> pieces, uint64_t offset) {
  return submit(
      co,
      [&](IoRing& ring, RingFile file) -> int64_t {
        return ring.co_readv(co, file, pieces, offset);
      },
      [&](int fd) {
        return ::preadv(fd, pieces.data(), static_cast<int>(pieces.size()),
                        static_cast<off_t>(offset));
      });
}

int64_t FileIo::co_writev(Co& co, std::span<const iovec> pieces, uint64_t offset, int rw_flags) {
  return submit(
      co,
      [&](IoRing& ring, RingFile file) -> int64_t {
        return ring.co_writev(co, file, pieces, offset, rw_flags);
      },
      [&](int fd) {
        return ::pwritev2(fd, pieces.data(), static_cast<int>(pieces.size()),
                          static_cast<off_t>(offset), rw_flags);
      });
}

int64_t FileIo::co_fdatasync(Co& co) {
  return submit(
      co,
      [&](IoRing& ring, RingFile file) -> int64_t {
        return ring.co_fsync(co, file, FsyncKind::kDataOnly);
      },
      [](int fd) { return ::fdatasync(fd); });
}

int64_t FileIo::co_fallocate(Co& co, int mode, uint64_t offset, uint64_t size) {
  return submit(
      co,
      [&](IoRing& ring, RingFile file) -> int64_t {
        return ring.co_fallocate(co, file, mode, offset, size);
      },
      [&](int fd) {
        return ::fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(size));
      });
}

}  // namespace rhea::block::internal
