#include "memory/internal/view_access.h"

#include <algorithm>

#include "memory/internal/ram_access.h"

namespace rhea::memory::internal {
namespace {

void copy_in(const FlatRange& range, uint64_t address, const std::byte* from, uint64_t size) {
  copy_to_ram(range.host(address), from, size);
  range.ram->dirty().mark(range.offset_in_ram + (address - range.base), size);
}

// The whole of an access in one range: nearly always, and then it needs no rehearsal.
const FlatRange* sole_range(const FlatView& view, uint64_t address, uint64_t size) {
  const FlatRange* range = view.find(address);
  if (range == nullptr || range->ram == nullptr || range->end() - address < size) return nullptr;
  return range;
}

Result<void> rehearse(const FlatView& view, uint64_t address, uint64_t size, RamAccess access) {
  return for_each_ram_piece(view, address, size, access,
                            [](const FlatRange&, uint64_t, uint64_t) { return ok(); });
}

}  // namespace

Result<void> read_ram(const FlatView& view, GuestAddr address, std::span<std::byte> data) {
  if (const FlatRange* range = sole_range(view, address.value, data.size())) [[likely]] {
    copy_from_ram(data.data(), range->host(address.value), data.size());
    return ok();
  }
  TRY(rehearse(view, address.value, data.size(), RamAccess::kRead));
  return for_each_ram_piece(view, address.value, data.size(), RamAccess::kRead,
                            [&](const FlatRange& range, uint64_t at, uint64_t size) {
                              copy_from_ram(data.data() + (at - address.value), range.host(at),
                                            size);
                              return ok();
                            });
}

Result<void> write_ram(const FlatView& view, GuestAddr address, std::span<const std::byte> data) {
  const FlatRange* range = sole_range(view, address.value, data.size());
  if (range != nullptr && !range->read_only) [[likely]] {
    copy_in(*range, address.value, data.data(), data.size());
    return ok();
  }
  TRY(rehearse(view, address.value, data.size(), RamAccess::kWrite));
  return for_each_ram_piece(view, address.value, data.size(), RamAccess::kWrite,
                            [&](const FlatRange& piece, uint64_t at, uint64_t size) {
                              copy_in(piece, at, data.data() + (at - address.value), size);
                              return ok();
                            });
}

void mark_dirty(const FlatView& view, GuestAddr address, uint64_t size_bytes) {
  const auto marked =
      for_each_ram_piece(view, address.value, size_bytes, RamAccess::kRead,
                         [](const FlatRange& range, uint64_t at, uint64_t size) {
                           range.ram->dirty().mark(range.offset_in_ram + (at - range.base), size);
                           return ok();
                         });
  RHEA_CHECK(marked.has_value(), "{} bytes at {:#x} were never mapped", size_bytes, address.value);
}

}  // namespace rhea::memory::internal
