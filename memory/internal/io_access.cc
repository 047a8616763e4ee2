#include "memory/internal/io_access.h"

#include <algorithm>
#include <bit>

namespace rhea::memory::internal {
namespace {

// Calls f(window, size, shift) for each access the handler sees: bit `shift` of the guest's value
// is bit 0 of the handler's (negative: the handler's value starts below the guest's).
template <class F>
void for_each_part(const IoAccess& access, uint64_t offset, unsigned size, F&& f) {
  if (size < access.impl_min) {
    const uint64_t width = access.impl_min;
    for (uint64_t window = offset / width * width; window < offset + size; window += width) {
      f(window, access.impl_min, (static_cast<int>(window - offset)) * 8);
    }
    return;
  }
  const unsigned width = std::min<unsigned>(size, access.impl_max);
  for (unsigned done = 0; done < size; done += width) {
    f(offset + done, width, static_cast<int>(done) * 8);
  }
}

uint64_t shifted(uint64_t value, int left) { return left >= 0 ? value << left : value >> -left; }

}  // namespace

bool accepts(const IoAccess& access, uint64_t offset, unsigned size) noexcept {
  if (size < access.min_size || size > access.max_size) return false;
  return access.unaligned || offset % size == 0;
}

unsigned copy_width(const IoAccess& access, uint64_t offset, uint64_t remaining) noexcept {
  auto width = static_cast<unsigned>(
      std::bit_floor(std::min<uint64_t>({remaining, access.max_size, uint64_t{8}})));
  while (width > 1 && offset % width != 0) width /= 2;
  return width;
}

uint64_t read_split(IoHandler& handler, const IoAccess& access, uint64_t offset, unsigned size) {
  uint64_t value = 0;
  for_each_part(access, offset, size, [&](uint64_t window, unsigned width, int shift) {
    value |= shifted(handler.io_read(window, width) & ones(width), shift);
  });
  return value & ones(size);
}

void write_split(IoHandler& handler, const IoAccess& access, uint64_t offset, uint64_t value,
                 unsigned size) {
  for_each_part(access, offset, size, [&](uint64_t window, unsigned width, int shift) {
    handler.io_write(window, shifted(value & ones(size), -shift) & ones(width), width);
  });
}

}  // namespace rhea::memory::internal
