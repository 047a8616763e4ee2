#include "block/io_vector.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "util/check.h"

namespace rhea::block {
namespace {

/// Calls `f(address, size)` for each piece's part of [offset, offset + size).
template <class F>
void for_each_part(std::span<const iovec> pieces, uint64_t offset, uint64_t size, F&& f) {
  for (const iovec& piece : pieces) {
    if (size == 0) return;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const uint64_t part = std::min<uint64_t>(size, piece.iov_len - offset);
    f(static_cast<std::byte*>(piece.iov_base) + offset, static_cast<size_t>(part));
    offset = 0;
    size -= part;
  }
  RHEA_CHECK(size == 0, "a request's memory is shorter than the request");
}

}  // namespace

size_t IoVector::slice(uint64_t offset, uint64_t bytes, std::span<iovec> out) const {
  size_t count = 0;
  for_each_part(pieces, offset, bytes, [&](std::byte* address, size_t part) {
    out[count++] = iovec{.iov_base = address, .iov_len = part};
  });
  return count;
}

void IoVector::copy_to(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  for_each_part(pieces, offset, out.size(), [&](const std::byte* address, size_t part) {
    std::memcpy(out.data() + done, address, part);
    done += part;
  });
}

void IoVector::copy_from(uint64_t offset, std::span<const std::byte> in) const {
  size_t done = 0;
  for_each_part(pieces, offset, in.size(), [&](std::byte* address, size_t part) {
    std::memcpy(address, in.data() + done, part);
    done += part;
  });
}

void IoVector::clear(uint64_t offset, uint64_t bytes) const {
  for_each_part(pieces, offset, bytes,
                [](std::byte* address, size_t part) { std::memset(address, 0, part); });
}

bool IoVector::aligned(uint64_t address, uint64_t length) const {
  return std::ranges::all_of(pieces, [address, length](const iovec& piece) {
    return ((std::bit_cast<uintptr_t>(piece.iov_base) & (address - 1)) |
            (piece.iov_len & (length - 1))) == 0;
  });
}

}  // namespace rhea::block
