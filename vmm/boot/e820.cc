#include "vmm/boot/e820.h"

#include <algorithm>

#include "util/check.h"
#include "vmm/pc_layout.h"

namespace rhea::vmm {
namespace {

using memory::GuestAddr;

void place_pci_window64(MemoryLayout& layout, uint64_t address_limit) {
  const uint64_t ram_end = pc::kHighRam.value + layout.above_4g;
  const uint64_t base = (ram_end + pc::kPciWindow64Align - 1) & ~(pc::kPciWindow64Align - 1);
  if (base >= address_limit) return;
  layout.pci_window64 = GuestAddr{base};
  layout.pci_window64_size = std::min(address_limit - base, pc::kPciWindow64MaxSize);
}

}  // namespace

Result<MemoryLayout> MemoryLayout::create(uint64_t ram_bytes, unsigned address_bits) {
  RHEA_CHECK(address_bits >= 32 && address_bits <= 52, "{} address bits", address_bits);
  MemoryLayout layout;
  layout.below_4g = std::min(ram_bytes, pc::kMaxLowRam);
  layout.above_4g = ram_bytes - layout.below_4g;
  const uint64_t address_limit = uint64_t{1} << address_bits;
  if (layout.above_4g > address_limit - pc::kHighRam.value) {
    return fail(ErrorKind::kInvalidArgument,
                "{} MiB of RAM do not fit the {} physical address bits of the CPU", ram_bytes >> 20,
                address_bits);
  }
  place_pci_window64(layout, address_limit);
  return layout;
}

std::vector<E820Range> e820_map(const MemoryLayout& layout) {
  std::vector<E820Range> map;
  const auto add = [&map](GuestAddr base, uint64_t size_bytes, E820Type type) {
    if (size_bytes != 0) map.push_back({base, size_bytes, type});
  };
  const uint64_t extended = layout.below_4g - std::min(layout.below_4g, pc::kExtendedRam.value);
  add(GuestAddr{0}, std::min(layout.below_4g, pc::kConventionalRam), E820Type::kRam);
  add(pc::kAcpiTables, pc::kAcpiTablesSize, E820Type::kReserved);
  add(pc::kExtendedRam, extended, E820Type::kRam);
  add(pc::kKvmPages, pc::kKvmPagesSize, E820Type::kReserved);
  add(pc::kHighRam, layout.above_4g, E820Type::kRam);
  return map;
}

}  // namespace rhea::vmm
