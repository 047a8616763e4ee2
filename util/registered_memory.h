// RegisteredMemory: memory that the rings of the process may pin once, instead of for each request.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace rhea {

namespace internal {
struct MemoryRange;
}

/// Offers a piece of memory to every io_uring of the process, those that are made later included,
/// for as long as this lives. A ring pins a part of it when a transfer first touches that part; a
/// transfer whose one buffer lies inside is then spared the look-up of its pages. What the host
/// refuses to pin, for its kind or for RLIMIT_MEMLOCK, is transferred as any other memory; the log
/// says why, once.
///
/// Only memory that is all there anyway is worth it, and each ring counts against the limit what it
/// pins.
///
/// Thread: any. Owns: a reference to `keeper`, which the last ring drops, on its own thread, when
/// it has let go of the memory: that must stay mapped as long as `keeper` lives. Invariants: ranges
/// are disjoint. Nobody takes pages out of it (madvise(2), a hole in the file behind it) while a
/// ring may have them pinned: the ring would go on using the old ones.
class RegisteredMemory {
 public:
  RegisteredMemory(std::span<std::byte> bytes, std::shared_ptr<const void> keeper);
  ~RegisteredMemory();
  RegisteredMemory(const RegisteredMemory&) = delete;
  RegisteredMemory& operator=(const RegisteredMemory&) = delete;

 private:
  std::shared_ptr<const internal::MemoryRange> range_;
};

}  // namespace rhea
