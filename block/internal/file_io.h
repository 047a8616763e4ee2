// FileIo: system calls on one open image, from coroutines of any context.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>
#include <span>

#include "block/internal/registered_file.h"
#include "util/co_pool.h"
#include "util/coroutine.h"
#include "util/thread_pool.h"

namespace rhea::block::internal {

enum class FileTransport : uint8_t {
  kRing,     ///< the context's io_uring where it has one, else threads
  kThreads,  ///< always threads
};

/// How requests reach an image: through the ring of the context that runs the coroutine, or a
/// worker of the pool.
///
/// Results are the system call's, or -errno, with interrupted ones made again. Short transfers are
/// the caller's.
/// Thread: made and destroyed on main with no request under way; the rest in coroutines of any
/// context. Owns: the descriptor.
class FileIo {
 public:
  FileIo(Fd file, ThreadPool& pool, FileTransport transport)
      : registered_(std::move(file)), pool_(pool), transport_(transport) {}

  int fd() const noexcept { return registered_.fd(); }

  int64_t co_readv(Co& co, std::span<const iovec> pieces, uint64_t offset);
  int64_t co_writev(Co& co, std::span<const iovec> pieces, uint64_t offset, int rw_flags);
  int64_t co_fdatasync(Co& co);
  int64_t co_fallocate(Co& co, int mode, uint64_t offset, uint64_t size);

  /// Runs `call(fd)`, which returns -1 and errno as system calls do, on a worker.
  template <class F>
  int64_t co_call(Co& co, F&& call) {
    auto result = co_run_on_pool(co, pool_, [&]() -> int64_t {
      int64_t n;
      do {
        n = call(fd());
      } while (n < 0 && errno == EINTR);
      return n < 0 ? -errno : n;
    });
    if (result) return *result;
    return result.error().kind() == ErrorKind::kCancelled ? -ECANCELED : -ENOMEM;
  }

 private:
  IoRing* ring(BlockContext& context) {
    return transport_ == FileTransport::kRing ? context.aio().io_ring() : nullptr;
  }
  template <class R, class T>
  int64_t submit(Co& co, R&& by_ring, T&& by_thread);

  RegisteredFile registered_;
  ThreadPool& pool_;
  const FileTransport transport_;
};

}  // namespace rhea::block::internal
