// IoRing: file I/O of one event loop by io_uring(7), as calls that suspend a coroutine.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "util/aio_context.h"
#include "util/coroutine.h"
#include "util/error.h"

namespace rhea {

namespace internal {
class MemoryFollower;
class RingCore;
struct RingOperation;
}  // namespace internal

/// A file as a ring names it. Means something only to the ring that registered it.
struct RingFile {
  enum class Kind : uint8_t {
    kDescriptor,  ///< a plain descriptor, looked up for each request
    kSlot,        ///< of the ring's table: the kernel holds the file, no look-up
  };
  int32_t number = -1;
  Kind kind = Kind::kDescriptor;
};

enum class FsyncKind : uint8_t {
  kAll,       ///< fsync(2)
  kDataOnly,  ///< fdatasync(2)
};

/// The io_uring of one AioContext; see AioContext::io_ring().
///
/// Each `co_` call queues one request and suspends until it has completed; the result is a byte
/// count, or 0, or -errno. Short results, EINTR and EAGAIN are the caller's to handle. What one
/// turn of the loop queues is submitted by one system call, the one that goes to sleep. There may
/// be more requests than the ring has room for: they wait, in order, until earlier ones complete.
/// Transfers of one part that lies in a RegisteredMemory do without the look-up of its pages.
/// Thread: the context's home thread; `co_` calls in a coroutine of this context.
/// Owns: the ring and its table of files. A request lives on its coroutine's stack, nothing is
/// allocated.
/// Invariants: it goes with its context, or when that gets another home, and then has no request in
/// flight and no file registered (checked).
/// Errors: the kernel refuses new requests for want of memory: they wait and are offered again.
class IoRing {
 public:
  struct Counters {
    uint64_t enters = 0;      ///< io_uring_enter(2) calls
    uint64_t requests = 0;    ///< given to the kernel
    uint64_t queued = 0;      ///< those that had to wait for room first
    uint64_t registered = 0;  ///< those that are transfers of registered memory
  };

  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  /// At most IOV_MAX parts, else -EINVAL. `iov` and what it points to stay until the return.
  int32_t co_readv(Co& co, RingFile file, std::span<const iovec> iov, uint64_t offset);
  /// `rw_flags`: RWF_DSYNC and the like, or 0; see pwritev2(2).
  int32_t co_writev(Co& co, RingFile file, std::span<const iovec> iov, uint64_t offset,
                    int rw_flags);
  int32_t co_fsync(Co& co, RingFile file, FsyncKind kind);
  /// `mode` as for fallocate(2).
  int32_t co_fallocate(Co& co, RingFile file, int mode, uint64_t offset, uint64_t length);
  /// Goes to the kernel and back: what a request costs without a file.
  int32_t co_nop(Co& co);

  /// A slot for `fd` if the table has room, else the descriptor itself; the owner keeps `fd` open
  /// until it has unregistered it. Errors: no open descriptor.
  Result<RingFile> register_file(int fd);
  /// Requests on it have completed. The kernel lets go of a slot's file some time later, of its
  /// locks then, too: who closes a locked file unlocks it first.
  void unregister_file(RingFile file);

  /// Makes requests on `file` end early, where the kernel can (on disks it mostly finishes them):
  /// each completes with -ECANCELED or what it came to. In flight until then.
  void cancel_file(RingFile file);
  /// As cancel_file(), for every request.
  void cancel_all();
  /// Requests that have not completed.
  size_t in_flight() const noexcept;

  Counters counters() const noexcept;

 private:
  friend class AioContext;
  IoRing(std::unique_ptr<internal::RingCore> core, AioContext& context);
  int32_t run(Co& co, const internal::RingOperation& operation);
  std::unique_ptr<internal::RingCore> core_;
  AioContext& context_;
  Bh memory_changed_;
  std::unique_ptr<internal::MemoryFollower> follower_;
};

}  // namespace rhea
