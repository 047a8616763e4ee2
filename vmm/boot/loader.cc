#include "vmm/boot/loader.h"

#include <algorithm>
#include <cstddef>
#include <span>

#include "vmm/boot/low_memory.h"

namespace rhea::vmm {
namespace {

constexpr uint64_t kPageSize = 0x1000;

}  // namespace

Result<LoadedRange> place_initrd(const ByteSource* initrd, uint64_t floor, uint64_t limit) {
  if (initrd == nullptr) return LoadedRange{};
  const uint64_t size = initrd->size_bytes();
  floor = (floor + kPageSize - 1) & ~(kPageSize - 1);
  const uint64_t room = limit > floor ? limit - floor : 0;
  if (size > room) {
    return fail(ErrorKind::kInvalidArgument,
                "{}: initrd too big for RAM: {} bytes, {} are free above the kernel",
                initrd->name(), size, room);
  }
  const uint64_t base = (limit - size) & ~(kPageSize - 1);
  return LoadedRange{memory::GuestAddr{base}, size};
}

Result<void> load_initrd(BootMemory& memory, const ByteSource* initrd, LoadedRange place) {
  if (initrd == nullptr) return ok();
  auto copied = memory.copy(place.base, *initrd, 0, place.size_bytes);
  if (!copied) return std::move(copied).error().context(initrd->name());
  return ok();
}

Result<void> check_command_line(std::string_view command_line, uint64_t max) {
  max = std::min(max, low_memory::kCommandLineSize - 1);
  if (command_line.size() > max) {
    return fail(ErrorKind::kInvalidArgument, "kernel command line too long ({} > max {})",
                command_line.size(), max);
  }
  return ok();
}

Result<void> write_command_line(BootMemory& memory, std::string_view command_line) {
  TRY(memory.write(low_memory::kCommandLine, std::as_bytes(std::span(command_line))));
  return memory.zero(low_memory::kCommandLine + command_line.size(), 1);
}

}  // namespace rhea::vmm
