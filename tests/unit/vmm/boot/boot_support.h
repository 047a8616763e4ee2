// Fakes and image builders for the boot loaders' tests and fuzz targets.
#pragma once

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "vmm/boot/boot_memory.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/load_kernel.h"

namespace rhea::vmm::test {

inline constexpr uint64_t kMiB = 1 << 20;

using Bytes = std::vector<std::byte>;

template <class T>
  requires std::is_trivially_copyable_v<T>
void put(Bytes& bytes, size_t offset, const T& value) {
  if (bytes.size() < offset + sizeof value) bytes.resize(offset + sizeof value);
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

/// RAM from 0 to `size`, page by page; pages not written yet hold 0xa5, as after a first boot.
class FakeMemory final : public BootMemory {
 public:
  explicit FakeMemory(uint64_t size_bytes) : size_bytes_(size_bytes) {}

  Result<void> write(memory::GuestAddr address, std::span<const std::byte> data) override {
    if (address.value > size_bytes_ || data.size() > size_bytes_ - address.value) {
      return fail(ErrorKind::kInvalidArgument, "{:#x} is not RAM", address.value);
    }
    ++writes_;
    for (uint64_t at = address.value; !data.empty();) {
      const size_t n = std::min<uint64_t>(data.size(), kPage - at % kPage);
      std::ranges::copy(data.first(n), page(at).begin() + static_cast<ptrdiff_t>(at % kPage));
      data = data.subspan(n);
      at += n;
    }
    return ok();
  }

  Bytes read(uint64_t address, size_t size) {
    Bytes bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = page(address + i)[(address + i) % kPage];
    return bytes;
  }
  template <class T>
  T get(uint64_t address) {
    T value;
    const Bytes bytes = read(address, sizeof value);
    std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof value);
    return value;
  }
  std::string text(uint64_t address) {
    std::string text;
    while (const char c = get<char>(address++)) text += c;
    return text;
  }
  unsigned writes() const { return writes_; }

 private:
  static constexpr uint64_t kPage = 4096;
  using Page = std::array<std::byte, kPage>;
  Page& page(uint64_t address) {
    auto [it, is_new] = pages_.try_emplace(address / kPage);
    if (is_new) it->second.fill(std::byte{0xa5});
    return it->second;
  }

  const uint64_t size_bytes_;
  unsigned writes_ = 0;
  std::map<uint64_t, Page> pages_;
};

class FakeSource final : public ByteSource {
 public:
  FakeSource(std::string name, Bytes bytes) : name_(std::move(name)), bytes_(std::move(bytes)) {}
  const std::string& name() const noexcept override { return name_; }
  uint64_t size_bytes() const noexcept override { return bytes_.size(); }

 private:
  Result<void> do_read(uint64_t offset, std::span<std::byte> data) const override {
    std::ranges::copy(std::span(bytes_).subspan(offset, data.size()), data.begin());
    return ok();
  }
  const std::string name_;
  const Bytes bytes_;
};

/// `size` bytes that differ from their neighbours.
inline Bytes pattern(size_t size, unsigned seed) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 256 + seed);
  return bytes;
}

inline constexpr size_t kTestSetupSects = 3;
inline constexpr size_t kTestKernelOffset = (kTestSetupSects + 1) * 512;
inline constexpr size_t kTestKernelSize = 8192;

/// The header of a small bzImage that loads.
inline SetupHeader good_header() {
  SetupHeader header;
  header.setup_sects = kTestSetupSects;
  header.syssize = uint32_t{kTestKernelSize / 16};
  header.boot_flag = uint16_t{0xaa55};
  header.jump_opcode = 0xeb;
  header.jump_offset = 0x6a;
  header.header = 0x5372'6448u;
  header.version = uint16_t{0x20f};
  header.loadflags = 1;
  header.initrd_addr_max = 0x7fff'ffffu;
  header.kernel_alignment = 0x20'0000u;
  header.relocatable_kernel = 1;
  header.xloadflags = uint16_t{0x7f};
  header.cmdline_size = 2047u;
  header.payload_offset = 0x300u;
  header.payload_length = 0x1000u;
  header.pref_address = 0x100'0000ul;
  header.init_size = 0x40'0000u;
  return header;
}

inline Bytes make_bzimage(const SetupHeader& header = good_header()) {
  Bytes image = pattern(kTestKernelOffset + kTestKernelSize, 7);
  std::memcpy(image.data() + kSetupHeaderOffset, &header, sizeof header);
  return image;
}

/// Where make_elf() puts things.
struct ElfPlan {
  static constexpr size_t kHeaders = sizeof(Elf64_Ehdr);
  static constexpr size_t kNote = 0x200;
  static constexpr size_t kNoteSize = 12 + 4 + 8;
  static constexpr size_t kCode = 0x1000;
  static constexpr size_t kCodeSize = 0x1000;
};

inline Elf64_Phdr program_header(uint32_t type, uint64_t offset, uint64_t file_size,
                                 uint64_t address, uint64_t memory_size) {
  Elf64_Phdr header{};
  header.p_type = type;
  header.p_offset = offset;
  header.p_filesz = file_size;
  header.p_paddr = address;
  header.p_memsz = memory_size;
  header.p_align = 4;
  return header;
}

/// The program headers of a small PVH kernel that loads: one segment at 16 MiB with a BSS, a note.
inline std::vector<Elf64_Phdr> good_program_headers() {
  return {program_header(PT_LOAD, ElfPlan::kCode, ElfPlan::kCodeSize, 0x100'0000, 0x3000),
          program_header(PT_NOTE, ElfPlan::kNote, ElfPlan::kNoteSize, 0, ElfPlan::kNoteSize)};
}

inline Elf64_Ehdr good_elf_header() {
  Elf64_Ehdr header{};
  constexpr std::array<unsigned char, 7> kIdent{0x7f,       'E',         'L',       'F',
                                                ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
  std::ranges::copy(kIdent, std::begin(header.e_ident));
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = ElfPlan::kHeaders;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 2;
  return header;
}

/// A note whose value is `entry`, 8 bytes wide as Linux builds it.
inline Bytes make_note(uint64_t entry, uint32_t type = 18) {
  Bytes note;
  put(note, 0, Elf64_Nhdr{4, 8, type});
  put(note, 12, std::array{'X', 'e', 'n', '\0'});
  put(note, 16, entry);
  return note;
}

inline Bytes make_elf(const Elf64_Ehdr& header = good_elf_header(),
                      const std::vector<Elf64_Phdr>& program_headers = good_program_headers(),
                      const Bytes& note = make_note(0x100'0010)) {
  Bytes image(ElfPlan::kCode);
  put(image, 0, header);
  for (size_t i = 0; i < program_headers.size(); ++i) {
    put(image, ElfPlan::kHeaders + i * sizeof(Elf64_Phdr), program_headers[i]);
  }
  std::ranges::copy(note, image.begin() + ElfPlan::kNote);
  std::ranges::copy(pattern(ElfPlan::kCodeSize, 11), std::back_inserter(image));
  return image;
}

/// A guest with its RAM, its kernel and maybe an initrd, ready to load.
struct BootFixture {
  explicit BootFixture(Bytes kernel_bytes, uint64_t ram_bytes = 64 * kMiB)
      : layout(MUST(MemoryLayout::create(ram_bytes, 46))),
        ram(layout.below_4g),
        kernel("kernel file 'k'", std::move(kernel_bytes)),
        initrd("initrd file 'i'", pattern(10'000, 3)) {}

  Result<BootState> load() {
    return load_kernel(ram, {kernel, use_initrd ? &initrd : nullptr, command_line, layout,
                             memory::GuestAddr{0xe'0000}});
  }
  /// The text of the error, and no byte written before it was found; empty if it loaded.
  std::string error() {
    const auto state = load();
    if (state) return "";
    return ram.writes() == 0 ? state.error().message() : "wrote to RAM, then failed";
  }

  MemoryLayout layout;
  FakeMemory ram;
  FakeSource kernel;
  FakeSource initrd;
  bool use_initrd = false;
  std::string command_line = "console=ttyS0";
};

}  // namespace rhea::vmm::test
