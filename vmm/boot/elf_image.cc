#include "vmm/boot/elf_image.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "util/endian.h"

namespace rhea::vmm {
namespace {

static_assert(std::endian::native == std::endian::little, "<elf.h> structs are read as they lie");

// Far above any kernel's, far below what would take noticeable time or memory.
constexpr size_t kMaxProgramHeaders = 128;
constexpr uint64_t kMaxNoteSize = 1 << 20;

constexpr uint32_t kNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::array<char, 4> kXenNoteName{'X', 'e', 'n', '\0'};

template <class... Args>
Error malformed(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorKind::kCorrupt, "not a valid ELF kernel: {}",
              fmt::format(format, std::forward<Args>(args)...));
}

template <class T>
  requires std::is_trivially_copyable_v<T>
T load(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

template <class T>
Result<T> read_object(const ByteSource& file, uint64_t offset) {
  std::array<std::byte, sizeof(T)> bytes;
  TRY(file.read(offset, bytes));
  return load<T>(bytes);
}

bool inside(uint64_t offset, uint64_t size, uint64_t whole) {
  return offset <= whole && size <= whole - offset;
}

Result<Elf64_Ehdr> read_elf_header(const ByteSource& file) {
  const auto ident = TRY((read_object<std::array<unsigned char, EI_NIDENT>>(file, 0)));
  if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB) {
    return fail(ErrorKind::kUnsupported, "not a 64-bit little-endian ELF kernel");
  }
  const auto header = TRY(read_object<Elf64_Ehdr>(file, 0));
  if (header.e_machine != EM_X86_64) {
    return fail(ErrorKind::kUnsupported, "ELF kernel for machine {}, not x86-64", header.e_machine);
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return fail(ErrorKind::kUnsupported, "ELF file of type {}, not an executable", header.e_type);
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return malformed("program headers of {} bytes", header.e_phentsize);
  }
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders) {
    return malformed("{} program headers", header.e_phnum);
  }
  return header;
}

Result<std::vector<Elf64_Phdr>> read_program_headers(const ByteSource& file) {
  const Elf64_Ehdr header = TRY(read_elf_header(file));
  if (!inside(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), file.size_bytes())) {
    return malformed("program headers at {:#x} are outside the file", header.e_phoff);
  }
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  TRY(file.read(header.e_phoff, std::as_writable_bytes(std::span(headers))));
  return headers;
}

Result<ElfSegment> segment_of(const Elf64_Phdr& header, const ByteSource& file) {
  if (!inside(header.p_offset, header.p_filesz, file.size_bytes())) {
    return fail(ErrorKind::kCorrupt, "truncated: {} bytes, but a segment has {} at {}",
                file.size_bytes(), header.p_filesz, header.p_offset);
  }
  if (header.p_memsz < header.p_filesz) return malformed("a segment is smaller than its contents");
  if (header.p_paddr + header.p_memsz < header.p_paddr) {
    return malformed("a segment at {:#x} wraps around", header.p_paddr);
  }
  return ElfSegment{memory::GuestAddr{header.p_paddr}, header.p_offset, header.p_filesz,
                    header.p_memsz};
}

/// The entry point a note holds: the width of the field varies with who built the kernel.
Result<uint32_t> entry_of(std::span<const std::byte> value) {
  if (value.size() == sizeof(uint32_t)) return load<uint32_t>(value);
  if (value.size() != sizeof(uint64_t)) return malformed("PVH note of {} bytes", value.size());
  const auto entry = load<uint64_t>(value);
  if (entry > UINT32_MAX) return malformed("PVH entry {:#x} is above 4 GiB", entry);
  return static_cast<uint32_t>(entry);
}

/// Looks through the notes of one segment. [ELF-1.2 2-4]
Result<std::optional<uint32_t>> find_entry_note(std::span<const std::byte> notes, size_t align) {
  const auto padded = [align](uint64_t size) { return (size + align - 1) & ~(align - 1); };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    const auto header = load<Elf64_Nhdr>(notes);
    notes = notes.subspan(sizeof header);
    const uint64_t name_size = padded(header.n_namesz);
    if (name_size > notes.size() || header.n_descsz > notes.size() - name_size) {
      return malformed("a note is larger than its segment");
    }
    const auto name = notes.first(header.n_namesz);
    const auto value = notes.subspan(name_size, header.n_descsz);
    if (header.n_type == kNotePhys32Entry &&
        std::ranges::equal(name, std::as_bytes(std::span(kXenNoteName)))) {
      return TRY(entry_of(value));
    }
    // The last note's padding may be missing.
    notes = notes.subspan(std::min<uint64_t>(name_size + padded(header.n_descsz), notes.size()));
  }
  return std::optional<uint32_t>{};
}

Result<std::optional<uint32_t>> find_entry(const Elf64_Phdr& header, const ByteSource& file) {
  if (!inside(header.p_offset, header.p_filesz, file.size_bytes())) {
    return malformed("its notes are outside the file");
  }
  if (header.p_filesz > kMaxNoteSize) return malformed("{} bytes of notes", header.p_filesz);
  std::vector<std::byte> notes(header.p_filesz);
  TRY(file.read(header.p_offset, notes));
  return find_entry_note(notes, header.p_align == 8 ? 8 : 4);
}

bool covers(const ElfSegment& segment, uint64_t address) {
  return address >= segment.address.value && address - segment.address.value < segment.memory_size;
}

}  // namespace

Result<ElfImage> ElfImage::parse(const ByteSource& file) {
  ElfImage image;
  std::optional<uint32_t> entry;
  for (const Elf64_Phdr& header : TRY(read_program_headers(file))) {
    if (header.p_type == PT_LOAD && header.p_memsz != 0) {
      image.segments.push_back(TRY(segment_of(header, file)));
    } else if (header.p_type == PT_NOTE && !entry) {
      entry = TRY(find_entry(header, file));
    }
  }
  if (!entry) {
    return fail(ErrorKind::kUnsupported, "ELF kernel without a PVH entry note (CONFIG_PVH)");
  }
  image.pvh_entry = *entry;
  if (std::ranges::none_of(image.segments,
                           [&](const ElfSegment& s) { return covers(s, image.pvh_entry); })) {
    return malformed("its PVH entry {:#x} is in no segment", image.pvh_entry);
  }
  return image;
}

}  // namespace rhea::vmm
