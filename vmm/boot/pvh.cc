#include "vmm/boot/pvh.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "vmm/boot/cpu_setup.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/low_memory.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

using memory::GuestAddr;

constexpr GuestAddr kModules = low_memory::kStartInfo + 0x40;
constexpr GuestAddr kMemoryMap = low_memory::kStartInfo + 0x80;
static_assert(sizeof(PvhStartInfo) <= 0x40 && sizeof(PvhModule) <= 0x40);

/// Checks that all of `image` goes to RAM below the hole and clear of what we put into low memory;
/// the result is the first address above it.
Result<uint64_t> end_of_kernel(const ElfImage& image, uint64_t ram_end) {
  uint64_t end = 0;
  for (const ElfSegment& segment : image.segments) {
    const uint64_t base = segment.address.value;
    if (base < pc::kExtendedRam.value) {
      return fail(ErrorKind::kUnsupported, "ELF kernel has a segment at {:#x}, below 1 MiB", base);
    }
    if (base >= ram_end || segment.memory_size > ram_end - base) {
      return fail(ErrorKind::kInvalidArgument,
                  "kernel too big for RAM: it needs {} bytes from {:#x}, RAM below 4 GiB is {} MiB",
                  segment.memory_size, base, ram_end >> 20);
    }
    end = std::max(end, base + segment.memory_size);
  }
  return end;
}

Result<void> load_segments(BootMemory& memory, const ElfImage& image, const ByteSource& file) {
  for (const ElfSegment& segment : image.segments) {
    TRY(memory.copy(segment.address, file, segment.file_offset, segment.file_size));
    TRY(memory.zero(segment.address + segment.file_size, segment.memory_size - segment.file_size));
  }
  return ok();
}

Result<void> write_start_info(BootMemory& memory, const BootInputs& inputs, LoadedRange initrd) {
  std::vector<PvhRange> map;
  for (const E820Range& range : e820_map(inputs.layout)) {
    map.push_back({range.base.value, range.size_bytes, std::to_underlying(range.type), 0u});
  }
  TRY(memory.write(kMemoryMap, std::as_bytes(std::span(map))));
  PvhStartInfo info;
  info.command_line = low_memory::kCommandLine.value;
  info.rsdp = inputs.rsdp.value;
  info.memory_map = kMemoryMap.value;
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  if (inputs.initrd != nullptr) {
    info.module_count = 1;
    info.module_list = kModules.value;
    TRY(memory.write_object(kModules, PvhModule{initrd.base.value, initrd.size_bytes, 0ul, 0ul}));
  }
  return memory.write_object(low_memory::kStartInfo, info);
}

/// A parsed image and the first address above it.
struct Kernel {
  ElfImage image;
  uint64_t end = 0;
};

Result<Kernel> parse_kernel(const BootInputs& inputs) {
  Kernel kernel;
  kernel.image = TRY(ElfImage::parse(inputs.kernel));
  kernel.end = TRY(end_of_kernel(kernel.image, inputs.layout.below_4g));
  return kernel;
}

}  // namespace

bool is_elf(std::span<const std::byte> head) noexcept {
  constexpr std::array<unsigned char, 4> kMagic{0x7f, 'E', 'L', 'F'};
  return head.size() >= kMagic.size() &&
         std::memcmp(head.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<BootState> load_pvh(BootMemory& memory, const BootInputs& inputs) {
  const auto kernel = parse_kernel(inputs);
  if (!kernel) return Error(kernel.error()).context(inputs.kernel.name());
  // The ABI states no limit, so only the room kept for the command line does.
  TRY(check_command_line(inputs.command_line, std::numeric_limits<uint64_t>::max()));
  const LoadedRange initrd = TRY(place_initrd(inputs.initrd, kernel->end, inputs.layout.below_4g));

  auto loaded = load_segments(memory, kernel->image, inputs.kernel);
  if (!loaded) return std::move(loaded).error().context(inputs.kernel.name());
  TRY(load_initrd(memory, inputs.initrd, initrd));
  TRY(write_command_line(memory, inputs.command_line));
  TRY(write_start_info(memory, inputs, initrd));
  BootState state = TRY(set_up_protected_mode(memory));
  state.rip = kernel->image.pvh_entry;
  state.rbx = low_memory::kStartInfo.value;
  return state;
}

}  // namespace rhea::vmm
