#include "memory/guest_memory.h"

#include "memory/internal/view_access.h"

namespace rhea::memory {

Result<void> GuestMemory::Pin::read(GuestAddr address, std::span<std::byte> data) const {
  return internal::read_ram(*view_, address, data);
}

Result<void> GuestMemory::Pin::write(GuestAddr address, std::span<const std::byte> data) const {
  return internal::write_ram(*view_, address, data);
}

Result<size_t> GuestMemory::Pin::map(GuestAddr address, uint64_t size_bytes, Access access,
                                     std::span<iovec> out) const {
  size_t used = 0;
  const auto wanted =
      access == Access::kWrite ? internal::RamAccess::kWrite : internal::RamAccess::kRead;
  TRY(internal::for_each_ram_piece(
      *view_, address.value, size_bytes, wanted,
      [&](const FlatRange& range, uint64_t at, uint64_t size) -> Result<void> {
        if (used == out.size()) {
          return fail(ErrorKind::kResource, "guest range {:#x}+{:#x} has more than {} pieces",
                      address.value, size_bytes, out.size());
        }
        out[used++] = iovec{range.host(at), size};
        return ok();
      }));
  return used;
}

void GuestMemory::Pin::written(GuestAddr address, uint64_t size_bytes) const {
  internal::mark_dirty(*view_, address, size_bytes);
}

}  // namespace rhea::memory
