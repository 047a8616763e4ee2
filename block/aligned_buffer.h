// AlignedBuffer: memory for requests whose own memory or range does not suit a node.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

#include "util/check.h"

namespace rhea::block {

/// Owns its memory, which is not cleared. Units: bytes; `alignment` is a power of two.
class AlignedBuffer {
 public:
  AlignedBuffer(size_t size, size_t alignment)
      : size_(size),
        memory_(std::aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1))) {
    RHEA_CHECK(memory_ != nullptr, "out of memory");
  }

  std::span<std::byte> bytes() noexcept { return {static_cast<std::byte*>(memory_.get()), size_}; }
  /// One piece of it.
  iovec piece(size_t size) const noexcept { return {.iov_base = memory_.get(), .iov_len = size}; }

 private:
  struct Free {
    void operator()(void* memory) const noexcept { std::free(memory); }
  };
  size_t size_;
  std::unique_ptr<void, Free> memory_;
};

}  // namespace rhea::block
