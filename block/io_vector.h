// IoVector: the memory of one request, in pieces.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace rhea::block {

/// A view of a request's buffers. Owns nothing: pieces and memory outlive the request.
/// Units: bytes. Invariants: `size` is the sum of the pieces.
struct IoVector {
  std::span<const iovec> pieces;
  uint64_t size = 0;

  static IoVector of(std::span<const iovec> pieces) {
    uint64_t size = 0;
    for (const iovec& piece : pieces) size += piece.iov_len;
    return {pieces, size};
  }

  /// The pieces of [offset, offset + size), written to `out`; how many. `out` has as many places
  /// as this has pieces.
  size_t slice(uint64_t offset, uint64_t size, std::span<iovec> out) const;
  void copy_to(uint64_t offset, std::span<std::byte> out) const;
  void copy_from(uint64_t offset, std::span<const std::byte> in) const;
  /// Fills [offset, offset + size) with zeros.
  void clear(uint64_t offset, uint64_t size) const;
  /// Whether every piece's address is a multiple of `address`, and its length of `length`, powers
  /// of two.
  bool aligned(uint64_t address, uint64_t length) const;
};

}  // namespace rhea::block
