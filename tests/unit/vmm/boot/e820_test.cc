#include "vmm/boot/e820.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace rhea;
using namespace rhea::vmm;
using memory::GuestAddr;

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

MemoryLayout layout_of(uint64_t ram_bytes, unsigned address_bits = 46) {
  return MUST(MemoryLayout::create(ram_bytes, address_bits));
}

E820Range ram(uint64_t base, uint64_t end) { return {GuestAddr{base}, end - base, E820Type::kRam}; }
E820Range reserved(uint64_t base, uint64_t end) {
  return {GuestAddr{base}, end - base, E820Type::kReserved};
}

const E820Range kTables = reserved(0xe0000, 0x100000);
const E820Range kKvm = reserved(0xfeffc000, 0xff000000);

using Map = std::vector<E820Range>;

}  // namespace

TEST_CASE("E820: RAM below the hole ends where the RAM ends", "[boot]") {
  CHECK(e820_map(layout_of(256 * kMiB)) ==
        Map{ram(0, 0xa0000), kTables, ram(0x100000, 256 * kMiB), kKvm});
}

TEST_CASE("E820: exactly 3 GiB leave nothing above 4 GiB", "[boot]") {
  CHECK(e820_map(layout_of(3 * kGiB)) ==
        Map{ram(0, 0xa0000), kTables, ram(0x100000, 3 * kGiB), kKvm});
}

TEST_CASE("E820: what does not fit below 3 GiB starts at 4 GiB", "[boot]") {
  CHECK(e820_map(layout_of(3 * kGiB + kMiB)) == Map{ram(0, 0xa0000), kTables,
                                                    ram(0x100000, 3 * kGiB), kKvm,
                                                    ram(4 * kGiB, 4 * kGiB + kMiB)});
  CHECK(e820_map(layout_of(8 * kGiB)).back() == ram(4 * kGiB, 9 * kGiB));
}

TEST_CASE("E820: less than 1 MiB of RAM has no range above it", "[boot]") {
  CHECK(e820_map(layout_of(512 << 10)) == Map{ram(0, 512 << 10), kTables, kKvm});
  CHECK(e820_map(layout_of(kMiB)) == Map{ram(0, 0xa0000), kTables, kKvm});
}

TEST_CASE("MemoryLayout: the 64-bit PCI window lies above RAM, aligned", "[boot]") {
  CHECK(layout_of(256 * kMiB).pci_window64 == GuestAddr{4 * kGiB});
  CHECK(layout_of(256 * kMiB).pci_window64_size == 64 * kGiB);
  CHECK(layout_of(3 * kGiB + kMiB).pci_window64 == GuestAddr{5 * kGiB});
  CHECK(layout_of(7 * kGiB).pci_window64 == GuestAddr{8 * kGiB});
}

TEST_CASE("MemoryLayout: the 64-bit PCI window ends with the CPU's addresses", "[boot]") {
  CHECK(layout_of(7 * kGiB, 36).pci_window64_size == 56 * kGiB);
  // RAM up to the last GiB: no room is not an error.
  CHECK(layout_of(63 * kGiB, 36).pci_window64_size == 0);
  CHECK(layout_of(kGiB, 32).pci_window64_size == 0);
}

TEST_CASE("MemoryLayout: RAM beyond the CPU's addresses is refused", "[boot]") {
  CHECK(MemoryLayout::create(63 * kGiB, 36).has_value());
  const auto layout = MemoryLayout::create(63 * kGiB + kMiB, 36);
  REQUIRE_FALSE(layout.has_value());
  CHECK(layout.error().message() ==
        "64513 MiB of RAM do not fit the 36 physical address bits of the CPU");
  CHECK_FALSE(MemoryLayout::create(kGiB * 4, 32).has_value());
  CHECK_FALSE(MemoryLayout::create(UINT64_MAX, 52).has_value());
}
