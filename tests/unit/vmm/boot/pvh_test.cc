#include "vmm/boot/pvh.h"

#include <catch2/catch.hpp>
#include <string>

#include "tests/unit/vmm/boot/boot_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::vmm::test;

namespace {

template <class F>
std::string error_with_header(F&& change) {
  Elf64_Ehdr header = good_elf_header();
  change(header);
  return BootFixture(make_elf(header)).error();
}

/// The error after changing the loadable segment (index 0) and the note segment (index 1).
template <class F>
std::string error_with_segments(F&& change) {
  auto headers = good_program_headers();
  change(headers[0], headers[1]);
  return BootFixture(make_elf(good_elf_header(), headers)).error();
}

std::string error_with_note(const Bytes& note) {
  return BootFixture(make_elf(good_elf_header(), good_program_headers(), note)).error();
}

std::string not_valid(const std::string& why) {
  return "kernel file 'k': not a valid ELF kernel: " + why;
}

}  // namespace

TEST_CASE("PVH: the segment is copied, its rest zeroed, and the note's entry used", "[boot]") {
  BootFixture f(make_elf());
  const BootState state = f.load().value();
  CHECK(state.mode == CpuMode::kProtected32);
  CHECK(state.rip == 0x1000010);
  CHECK(state.rbx == 0x6000);
  CHECK(f.ram.read(0x1000000, 0x1000) == pattern(0x1000, 11));
  CHECK(f.ram.read(0x1001000, 0x2000) == Bytes(0x2000));
  CHECK(f.ram.get<uint8_t>(0x1003000) == 0xa5);
}

TEST_CASE("PVH: the registers are those of 32-bit mode without paging", "[boot]") {
  BootFixture f(make_elf());
  const BootState state = f.load().value();
  CHECK(state.cr0 == 0x11);
  CHECK(state.cr3 == 0);
  CHECK(state.cr4 == 0);
  CHECK(state.efer == 0);
  CHECK(state.rflags == 2);
  CHECK(state.code.big);
  CHECK_FALSE(state.code.long_mode);
  CHECK(state.code.limit == 0xffffffff);
  CHECK(state.task.limit == 0x67);
  CHECK(f.ram.get<uint64_t>(state.gdt.base + 0x10) == 0x00cf9b000000ffff);
}

TEST_CASE("PVH: the start info names memory map, command line, RSDP and initrd", "[boot]") {
  BootFixture f(make_elf());
  f.use_initrd = true;
  const uint64_t base = f.load().value().rbx;
  // Fields by their offsets in the ABI, not by our own struct.
  CHECK(f.ram.get<uint32_t>(base) == 0x336ec578);
  CHECK(f.ram.get<uint32_t>(base + 4) == 1);
  CHECK(f.ram.get<uint32_t>(base + 8) == 0);
  CHECK(f.ram.get<uint32_t>(base + 12) == 1);
  CHECK(f.ram.text(f.ram.get<uint64_t>(base + 24)) == "console=ttyS0");
  CHECK(f.ram.get<uint64_t>(base + 32) == 0xe0000);
  const auto module = f.ram.get<uint64_t>(base + 16);
  const auto initrd = f.ram.get<uint64_t>(module);
  CHECK(initrd == 64 * kMiB - 0x3000);
  CHECK(f.ram.get<uint64_t>(module + 8) == 10'000);
  CHECK(f.ram.read(initrd, 10'000) == pattern(10'000, 3));
  const auto map = f.ram.get<uint64_t>(base + 40);
  REQUIRE(f.ram.get<uint32_t>(base + 48) == 4);
  CHECK(f.ram.get<uint64_t>(map + 2 * 24) == kMiB);
  CHECK(f.ram.get<uint64_t>(map + 2 * 24 + 8) == 63 * kMiB);
  CHECK(f.ram.get<uint32_t>(map + 2 * 24 + 16) == 1);
}

TEST_CASE("PVH: without an initrd there are no modules", "[boot]") {
  BootFixture f(make_elf());
  const uint64_t base = f.load().value().rbx;
  CHECK(f.ram.get<uint32_t>(base + 12) == 0);
  CHECK(f.ram.get<uint64_t>(base + 16) == 0);
}

TEST_CASE("PVH: a 4-byte entry after other notes and other names is found", "[boot]") {
  Bytes notes = make_note(0xdead, 17);
  Bytes other = make_note(0xdead, 18);
  put(other, 12, std::array{'G', 'N', 'U', '\0'});
  notes.insert(notes.end(), other.begin(), other.end());
  put(notes, notes.size(), Elf64_Nhdr{4, 4, 18});
  put(notes, notes.size(), std::array{'X', 'e', 'n', '\0'});
  put(notes, notes.size(), uint32_t{0x1000020});
  auto headers = good_program_headers();
  headers[1].p_filesz = notes.size();
  BootFixture f(make_elf(good_elf_header(), headers, notes));
  CHECK(f.load().value().rip == 0x1000020);
}

TEST_CASE("PVH: notes aligned to 8 bytes are read with that padding", "[boot]") {
  Bytes notes;
  put(notes, 0, Elf64_Nhdr{4, 5, 1});  // name at 12..16, padded to 20; value padded to 28
  put(notes, 12, std::array{'A', 'B', 'C', '\0'});
  notes.resize(12 + 8 + 8);
  put(notes, 28, Elf64_Nhdr{4, 8, 18});
  put(notes, 40, std::array{'X', 'e', 'n', '\0'});
  put(notes, 48, uint64_t{0x1000030});
  auto headers = good_program_headers();
  headers[1].p_filesz = notes.size();
  headers[1].p_align = 8;
  BootFixture f(make_elf(good_elf_header(), headers, notes));
  CHECK(f.load().value().rip == 0x1000030);
}

TEST_CASE("PVH: the wrong kind of ELF is refused by name", "[boot]") {
  const std::string k = "kernel file 'k': ";
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }) ==
        k + "not a 64-bit little-endian ELF kernel");
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }) ==
        k + "not a 64-bit little-endian ELF kernel");
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_machine = EM_AARCH64; }) ==
        k + "ELF kernel for machine 183, not x86-64");
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_type = ET_REL; }) ==
        k + "ELF file of type 1, not an executable");
  CHECK(error_with_note(make_note(0x1000010, 19)) ==
        k + "ELF kernel without a PVH entry note (CONFIG_PVH)");
  CHECK(error_with_segments([](Elf64_Phdr&, Elf64_Phdr& note) { note.p_type = PT_NULL; }) ==
        k + "ELF kernel without a PVH entry note (CONFIG_PVH)");
}

TEST_CASE("PVH: program headers that can not be are refused", "[boot]") {
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_phentsize = 55; }) ==
        not_valid("program headers of 55 bytes"));
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_phnum = 0; }) == not_valid("0 program headers"));
  CHECK(error_with_header([](Elf64_Ehdr& h) { h.e_phnum = 129; }) ==
        not_valid("129 program headers"));
  for (const uint64_t offset : {uint64_t{0x2000 - 111}, UINT64_MAX - 8, UINT64_MAX}) {
    CHECK_THAT(error_with_header([&](Elf64_Ehdr& h) { h.e_phoff = offset; }),
               Catch::Contains("are outside the file"));
  }
}

TEST_CASE("PVH: segments that can not be are refused", "[boot]") {
  const auto with = [](auto change) {
    return error_with_segments([&](Elf64_Phdr& load, Elf64_Phdr&) { change(load); });
  };
  CHECK_THAT(with([](Elf64_Phdr& h) { h.p_offset = 0x1001; }), Catch::Contains("truncated"));
  CHECK_THAT(with([](Elf64_Phdr& h) { h.p_offset = UINT64_MAX; }), Catch::Contains("truncated"));
  CHECK_THAT(with([](Elf64_Phdr& h) { h.p_filesz = UINT64_MAX; }), Catch::Contains("truncated"));
  CHECK(with([](Elf64_Phdr& h) { h.p_memsz = 0xfff; }) ==
        not_valid("a segment is smaller than its contents"));
  CHECK(with([](Elf64_Phdr& h) { h.p_paddr = UINT64_MAX - 0x1000; }) ==
        not_valid("a segment at 0xffffffffffffefff wraps around"));
  CHECK_THAT(with([](Elf64_Phdr& h) { h.p_memsz = UINT64_MAX; }), Catch::Contains("wraps around"));
  CHECK(with([](Elf64_Phdr& h) { h.p_type = PT_NULL; }) ==
        not_valid("its PVH entry 0x1000010 is in no segment"));
}

TEST_CASE("PVH: segments outside usable RAM are refused", "[boot]") {
  const auto at = [](uint64_t address, uint64_t size) {
    auto headers = good_program_headers();
    headers[0].p_paddr = address;
    headers[0].p_memsz = size;
    return BootFixture(make_elf(good_elf_header(), headers, make_note(address & UINT32_MAX)))
        .error();
  };
  CHECK(at(0x100000, 0x3000).empty());
  CHECK(at(0xff000, 0x3000) == "kernel file 'k': ELF kernel has a segment at 0xff000, below 1 MiB");
  CHECK(at(64 * kMiB - 0x3000, 0x3000).empty());
  CHECK_THAT(at(64 * kMiB - 0x3000, 0x3001), Catch::Contains("kernel too big for RAM"));
  CHECK_THAT(at(64 * kMiB, 0x1000), Catch::Contains("kernel too big for RAM"));
}

TEST_CASE("PVH: notes that can not be are refused", "[boot]") {
  const auto with = [](auto change) {
    return error_with_segments([&](Elf64_Phdr&, Elf64_Phdr& note) { change(note); });
  };
  CHECK(with([](Elf64_Phdr& h) { h.p_offset = UINT64_MAX; }) ==
        not_valid("its notes are outside the file"));
  CHECK(with([](Elf64_Phdr& h) { h.p_filesz -= 1; }) ==
        not_valid("a note is larger than its segment"));
  CHECK(error_with_note(make_note(uint64_t{1} << 32)) ==
        not_valid("PVH entry 0x100000000 is above 4 GiB"));
  CHECK(error_with_note(make_note(0xffffff)) ==
        not_valid("its PVH entry 0xffffff is in no segment"));
  CHECK(error_with_note(make_note(0x1003000)) ==
        not_valid("its PVH entry 0x1003000 is in no segment"));
  Bytes note = make_note(0x1000010);
  put(note, 4, uint32_t{7});
  CHECK(error_with_note(note) == not_valid("PVH note of 7 bytes"));
  put(note, 4, UINT32_MAX);
  CHECK(error_with_note(note) == not_valid("a note is larger than its segment"));
  put(note, 0, UINT32_MAX);
  CHECK(error_with_note(note) == not_valid("a note is larger than its segment"));
}

TEST_CASE("PVH: more notes than any kernel has are not read", "[boot]") {
  auto headers = good_program_headers();
  headers[1].p_filesz = kMiB + 1;
  Bytes image = make_elf(good_elf_header(), headers);
  image.resize(3 * kMiB);
  CHECK(BootFixture(image).error() == not_valid("1048577 bytes of notes"));
}

TEST_CASE("PVH: the initrd and the command line have their limits here too", "[boot]") {
  BootFixture initrd(make_elf(), 16 * kMiB + 0x3000 + 9'999);
  initrd.use_initrd = true;
  CHECK_THAT(initrd.error(), Catch::Contains("initrd too big for RAM"));
  BootFixture longest(make_elf());
  longest.command_line = std::string(65535, 'x');
  CHECK(longest.error().empty());
  BootFixture longer(make_elf());
  longer.command_line = std::string(65536, 'x');
  CHECK(longer.error() == "kernel command line too long (65536 > max 65535)");
}

TEST_CASE("PVH: rounding the initrd's place down to a page does not reach into the kernel",
          "[boot]") {
  auto headers = good_program_headers();
  headers[0].p_memsz = 0x1800;  // the page at 0x1001000 belongs to the kernel, its rest is free
  BootFixture f(make_elf(good_elf_header(), headers), 16 * kMiB + 0x1800 + 10'000);
  f.use_initrd = true;
  CHECK_THAT(f.error(), Catch::Contains("initrd too big for RAM"));
}

TEST_CASE("PVH: cut off anywhere it is refused, before RAM is touched", "[boot]") {
  const Bytes whole = make_elf();
  for (size_t size = 0; size < whole.size(); size += size < 1024 ? 1 : 97) {
    BootFixture f(Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)));
    REQUIRE_FALSE(f.error().empty());
    REQUIRE(f.ram.writes() == 0);
  }
}
