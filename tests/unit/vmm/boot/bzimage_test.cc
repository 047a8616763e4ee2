#include "vmm/boot/bzimage.h"

#include <asm/bootparam.h>

#include <catch2/catch.hpp>
#include <cstddef>
#include <string>

#include "tests/unit/vmm/boot/boot_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;

// The kernel's own header is the second opinion on every offset.
#define SAME_OFFSET(field, theirs) \
  static_assert(offsetof(SetupHeader, field) == offsetof(setup_header, theirs))
SAME_OFFSET(setup_sects, setup_sects);
SAME_OFFSET(syssize, syssize);
SAME_OFFSET(boot_flag, boot_flag);
SAME_OFFSET(jump_opcode, jump);
SAME_OFFSET(header, header);
SAME_OFFSET(version, version);
SAME_OFFSET(type_of_loader, type_of_loader);
SAME_OFFSET(loadflags, loadflags);
SAME_OFFSET(code32_start, code32_start);
SAME_OFFSET(ramdisk_image, ramdisk_image);
SAME_OFFSET(ramdisk_size, ramdisk_size);
SAME_OFFSET(cmd_line_ptr, cmd_line_ptr);
SAME_OFFSET(initrd_addr_max, initrd_addr_max);
SAME_OFFSET(kernel_alignment, kernel_alignment);
SAME_OFFSET(relocatable_kernel, relocatable_kernel);
SAME_OFFSET(xloadflags, xloadflags);
SAME_OFFSET(cmdline_size, cmdline_size);
SAME_OFFSET(payload_offset, payload_offset);
SAME_OFFSET(payload_length, payload_length);
SAME_OFFSET(setup_data, setup_data);
SAME_OFFSET(pref_address, pref_address);
SAME_OFFSET(init_size, init_size);
#undef SAME_OFFSET
static_assert(offsetof(ZeroPage, acpi_rsdp_addr) == offsetof(boot_params, acpi_rsdp_addr));
static_assert(offsetof(ZeroPage, e820_entries) == offsetof(boot_params, e820_entries));
static_assert(offsetof(ZeroPage, header) == offsetof(boot_params, hdr));
static_assert(offsetof(ZeroPage, e820) == offsetof(boot_params, e820_table));
static_assert(sizeof(ZeroPage) == sizeof(boot_params));

namespace {

/// The error for the good header after `change`.
template <class F>
std::string error_with(F&& change) {
  SetupHeader header = good_header();
  change(header);
  return BootFixture(make_bzimage(header)).error();
}

std::string not_valid(const std::string& why) {
  return "kernel file 'k': not a valid bzImage: " + why;
}

}  // namespace

TEST_CASE("bzImage: the kernel goes to its preferred address, entered 0x200 in", "[boot]") {
  BootFixture f(make_bzimage());
  const auto state = f.load();
  REQUIRE(state.has_value());
  CHECK(state->mode == CpuMode::kLong64);
  CHECK(state->rip == 0x1000200);
  CHECK(state->rsi == 0x7000);
  const Bytes image = make_bzimage();
  CHECK(f.ram.read(0x1000000, kTestKernelSize) ==
        Bytes(image.begin() + kTestKernelOffset, image.end()));
}

TEST_CASE("bzImage: the preferred address is rounded up to the kernel's alignment", "[boot]") {
  SetupHeader header = good_header();
  header.pref_address = 0x110'0000ul;
  BootFixture f(make_bzimage(header));
  CHECK(f.load().value().rip == 0x1200200);
}

TEST_CASE("bzImage: a kernel that can not be relocated goes to 1 MiB", "[boot]") {
  SetupHeader header = good_header();
  header.relocatable_kernel = 0;
  header.kernel_alignment = 0u;
  BootFixture f(make_bzimage(header));
  CHECK(f.load().value().rip == 0x100200);
}

TEST_CASE("bzImage: the registers are those of 64-bit mode with flat segments", "[boot]") {
  BootFixture f(make_bzimage());
  const BootState state = f.load().value();
  CHECK(state.cr0 == 0x80000011);
  CHECK(state.cr4 == 0x20);
  CHECK(state.efer == 0x500);
  CHECK(state.rflags == 2);
  CHECK(state.code.selector == 0x10);
  CHECK(state.code.long_mode);
  CHECK_FALSE(state.code.big);
  CHECK(state.data.selector == 0x18);
  CHECK(state.data.type == 3);
  CHECK(state.task.type == 0xb);
  CHECK(state.gdt.limit == 47);
}

TEST_CASE("bzImage: the GDT holds what the segment registers hold", "[boot]") {
  BootFixture f(make_bzimage());
  const BootState state = f.load().value();
  CHECK(f.ram.get<uint64_t>(state.gdt.base) == 0);
  CHECK(f.ram.get<uint64_t>(state.gdt.base + 0x10) == 0x00af9b000000ffff);
  CHECK(f.ram.get<uint64_t>(state.gdt.base + 0x18) == 0x00cf93000000ffff);
  CHECK(f.ram.get<uint64_t>(state.gdt.base + 0x20) == 0x00008b0000000067);
  CHECK(f.ram.get<uint64_t>(state.gdt.base + 0x28) == 0);
}

TEST_CASE("bzImage: the page tables map the first 4 GiB to themselves and no more", "[boot]") {
  BootFixture f(make_bzimage());
  const uint64_t top = f.load().value().cr3;
  const auto entry = [&](uint64_t table, uint64_t index) {
    return f.ram.get<uint64_t>((table & ~uint64_t{0xfff}) + index * 8);
  };
  const uint64_t pointers = entry(top, 0);
  CHECK((pointers & 0xfff) == 3);
  CHECK(entry(top, 1) == 0);
  CHECK(entry(top, 511) == 0);
  CHECK(entry(pointers, 4) == 0);
  for (uint64_t address = 0; address < uint64_t{4} << 30; address += 2 * kMiB) {
    const uint64_t directory = entry(pointers, address >> 30);
    REQUIRE((directory & 0xfff) == 3);
    REQUIRE(entry(directory, (address >> 21) & 511) == (address | 0x83));
  }
}

TEST_CASE("bzImage: the zero page carries header, memory map, command line and RSDP", "[boot]") {
  BootFixture f(make_bzimage());
  f.use_initrd = true;
  REQUIRE(f.load().has_value());
  const auto page = f.ram.get<boot_params>(0x7000);
  CHECK(page.acpi_rsdp_addr == 0xe0000);
  CHECK(page.sentinel == 0);
  CHECK(page.hdr.version == 0x20f);
  CHECK(page.hdr.type_of_loader == 0xff);
  CHECK(page.hdr.code32_start == 0x1000000);
  CHECK(page.hdr.init_size == 0x400000);
  CHECK(page.hdr.setup_data == 0);
  CHECK(page.hdr.ramdisk_size == 10'000);
  CHECK(f.ram.text(page.hdr.cmd_line_ptr) == "console=ttyS0");
  REQUIRE(page.e820_entries == 4);
  CHECK(page.e820_table[2].addr == kMiB);
  CHECK(page.e820_table[2].size == 63 * kMiB);
  CHECK(page.e820_table[2].type == 1);
  CHECK(page.e820_table[4].size == 0);
}

TEST_CASE("bzImage: bytes beyond the end of the image's header do not reach the zero page",
          "[boot]") {
  SetupHeader header = good_header();
  header.jump_offset = 0x62;  // ends after init_size
  header.handover_offset = 0xdead'beefu;
  header.setup_data = 0xdead'0000ul;
  BootFixture f(make_bzimage(header));
  REQUIRE(f.load().has_value());
  CHECK(f.ram.get<boot_params>(0x7000).hdr.handover_offset == 0);
  CHECK(f.ram.get<boot_params>(0x7000).hdr.init_size == 0x400000);
  CHECK(f.ram.get<boot_params>(0x7000).hdr.setup_data == 0);
}

TEST_CASE("bzImage: the initrd goes page-aligned to the top of RAM", "[boot]") {
  BootFixture f(make_bzimage());
  f.use_initrd = true;
  REQUIRE(f.load().has_value());
  const uint64_t base = f.ram.get<boot_params>(0x7000).hdr.ramdisk_image;
  CHECK(base == 64 * kMiB - 0x3000);
  CHECK(f.ram.read(base, 10'000) == pattern(10'000, 3));
}

TEST_CASE("bzImage: initrd_addr_max binds only a kernel that can not reach higher", "[boot]") {
  SetupHeader header = good_header();
  header.initrd_addr_max = 0x1ff'ffffu;  // 32 MiB
  BootFixture free_choice(make_bzimage(header));
  free_choice.use_initrd = true;
  REQUIRE(free_choice.load().has_value());
  CHECK(free_choice.ram.get<boot_params>(0x7000).hdr.ramdisk_image == 64 * kMiB - 0x3000);

  header.xloadflags = uint16_t{0x1};
  BootFixture bound(make_bzimage(header));
  bound.use_initrd = true;
  REQUIRE(bound.load().has_value());
  CHECK(bound.ram.get<boot_params>(0x7000).hdr.ramdisk_image == 32 * kMiB - 0x3000);
}

TEST_CASE("bzImage: an initrd that would touch the kernel is refused", "[boot]") {
  // The kernel needs 16..20 MiB; 20 MiB + 3 pages hold the initrd, one page less does not.
  BootFixture fits(make_bzimage(), 20 * kMiB + 0x3000);
  fits.use_initrd = true;
  CHECK(fits.error().empty());
  BootFixture refused(make_bzimage(), 20 * kMiB + 0x2000);
  refused.use_initrd = true;
  CHECK(refused.error() ==
        "initrd file 'i': initrd too big for RAM: 10000 bytes, 8192 are free above the kernel");
  // 10000 bytes are free, but not from a page boundary.
  BootFixture unaligned(make_bzimage(), 20 * kMiB + 10'000);
  unaligned.use_initrd = true;
  CHECK(unaligned.error().empty());
  BootFixture straddles(make_bzimage(), 20 * kMiB + 10'000 - 1);
  straddles.use_initrd = true;
  CHECK_FALSE(straddles.error().empty());
}

TEST_CASE("bzImage: RAM must hold what the kernel needs to unpack itself", "[boot]") {
  CHECK(BootFixture(make_bzimage(), 20 * kMiB).error().empty());
  CHECK(BootFixture(make_bzimage(), 20 * kMiB - 1).error() ==
        "kernel file 'k': kernel too big for RAM: it needs 4194304 bytes from 0x1000000, RAM below "
        "4 GiB is 19 MiB");
  CHECK_FALSE(BootFixture(make_bzimage(), 1 * kMiB).error().empty());
}

TEST_CASE("bzImage: the command line may be as long as the kernel says, not longer", "[boot]") {
  BootFixture f(make_bzimage());
  f.command_line = std::string(2047, 'x');
  CHECK(f.error().empty());
  CHECK(f.ram.text(0x20000) == f.command_line);
  BootFixture longer(make_bzimage());
  longer.command_line = std::string(2048, 'x');
  CHECK(longer.error() == "kernel command line too long (2048 > max 2047)");
}

TEST_CASE("bzImage: a kernel that claims no limit gets the room kept for command lines", "[boot]") {
  SetupHeader header = good_header();
  header.cmdline_size = UINT32_MAX;
  BootFixture f(make_bzimage(header));
  f.command_line = std::string(65535, 'x');
  CHECK(f.error().empty());
  BootFixture longer(make_bzimage(header));
  longer.command_line = std::string(65536, 'x');
  CHECK(longer.error() == "kernel command line too long (65536 > max 65535)");
}

TEST_CASE("bzImage: an empty command line is an empty string", "[boot]") {
  BootFixture f(make_bzimage());
  f.command_line = "";
  REQUIRE(f.load().has_value());
  CHECK(f.ram.text(0x20000).empty());
}

TEST_CASE("bzImage: each field out of its range is refused by name", "[boot]") {
  using H = SetupHeader;
  const std::string k = "kernel file 'k': ";
  CHECK(error_with([](H& h) { h.version = uint16_t{0x20b}; }) ==
        k + "kernel too old: it has boot protocol 2.11, 2.12 is needed");
  CHECK(error_with([](H& h) { h.loadflags = 0; }) ==
        k + "kernel is a zImage, only a bzImage can be loaded");
  CHECK(error_with([](H& h) { h.xloadflags = uint16_t{0x7e}; }) ==
        k + "kernel has no 64-bit entry point");
  CHECK(error_with([](H& h) { h.jump_offset = 0x61; }) == not_valid("setup header ends at 0x263"));
  CHECK(error_with([](H& h) { h.setup_sects = 0xff; }) ==
        k + "truncated: 10240 bytes, but its header says 139264");
  CHECK(error_with([](H& h) { h.syssize = 0xffff'ffffu; }) ==
        k + "truncated: 10240 bytes, but its header says 68719478768");
  CHECK(error_with([](H& h) { h.payload_length = 0u; }) ==
        not_valid("payload at 0x300, 0 bytes, is not inside the image"));
  CHECK(error_with([](H& h) { h.payload_length = 8192u - 0x300u + 1u; }) ==
        not_valid("payload at 0x300, 7425 bytes, is not inside the image"));
  CHECK(error_with([](H& h) { h.payload_offset = 0xffff'ffffu; }) ==
        not_valid("payload at 0xffffffff, 4096 bytes, is not inside the image"));
  CHECK(error_with([](H& h) { h.pref_address = 0xf'ffffu; }) ==
        not_valid("preferred address 0xfffff"));
  CHECK(error_with([](H& h) { h.init_size = 0u; }) == not_valid("init_size is 0"));
  CHECK(error_with([](H& h) { h.kernel_alignment = 0u; }) == not_valid("kernel alignment 0x0"));
  CHECK(error_with([](H& h) { h.kernel_alignment = 0x30'0000u; }) ==
        not_valid("kernel alignment 0x300000"));
  CHECK(error_with([](H& h) { h.kernel_alignment = 0x8000'0000u; }) ==
        not_valid("kernel alignment 0x80000000"));
  for (const uint64_t address : {uint64_t{0xc000'0000}, uint64_t{1} << 32, UINT64_MAX}) {
    CHECK_THAT(error_with([&](H& h) { h.pref_address = address; }),
               Catch::Contains("kernel too big for RAM"));
  }
  CHECK_THAT(error_with([](H& h) { h.init_size = UINT32_MAX; }),
             Catch::Contains("kernel too big for RAM"));
}

TEST_CASE("bzImage: without its signatures it is not a kernel", "[boot]") {
  const std::string text = "kernel file 'k': not a kernel: neither a bzImage nor an ELF image";
  CHECK(error_with([](SetupHeader& h) { h.header = 0u; }) == text);
  CHECK(error_with([](SetupHeader& h) { h.boot_flag = uint16_t{0}; }) == text);
}

TEST_CASE("bzImage: setup_sects 0 means 4", "[boot]") {
  SetupHeader header = good_header();
  header.setup_sects = 0;
  header.syssize = uint32_t{(kTestKernelSize - 512) / 16};
  BootFixture f(make_bzimage(header));
  REQUIRE(f.load().has_value());
  const Bytes image = make_bzimage(header);
  CHECK(f.ram.read(0x1000000, 16) == Bytes(image.begin() + 2560, image.begin() + 2576));
}

TEST_CASE("bzImage: cut off anywhere it is refused, before RAM is touched", "[boot]") {
  const Bytes whole = make_bzimage();
  for (size_t size = 0; size < whole.size(); size += size < 1024 ? 1 : 97) {
    BootFixture f(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
    REQUIRE_THAT(f.error(), Catch::Contains("not a kernel") || Catch::Contains("truncated"));
  }
}
