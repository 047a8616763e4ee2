#include "memory/touched_pages.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace rhea::memory {
namespace {

using Pages = std::vector<bool>;

// Elsewhere what a mapping has stored need not be where the file system looks for data.
bool is_tmpfs(int fd) {
  struct statfs fs{};
  return ::fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

// What the file has where it has no hole; false if that can not be said.
bool add_file(Pages& pages, int fd) {
  const auto end = static_cast<off_t>(pages.size() * kDirtyPageBytes);
  for (off_t at = 0; at < end;) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0) return errno == ENXIO;  // nothing but holes from there on
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return false;
    const auto first = static_cast<uint64_t>(std::min(data, end)) / kDirtyPageBytes;
    const auto last =
        (static_cast<uint64_t>(std::min(hole, end)) + kDirtyPageBytes - 1) / kDirtyPageBytes;
    for (uint64_t page = first; page < last; ++page) pages[page] = true;
    at = hole;
  }
  return true;
}

// What this process has in memory or in swap, of memory that is its own; false as above.
// [Linux, admin-guide/mm/pagemap: bit 63 present, bit 62 swapped]
bool add_mapped(Pages& pages, const std::byte* host) {
  constexpr uint64_t kThere = uint64_t{3} << 62;
  const Fd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap) return false;
  const uint64_t first = reinterpret_cast<uintptr_t>(host) / kDirtyPageBytes;
  std::array<uint64_t, 8192> entries;
  for (uint64_t page = 0; page < pages.size();) {
    const size_t want = std::min<uint64_t>(entries.size(), pages.size() - page) * sizeof entries[0];
    const ssize_t got = ::pread(pagemap.get(), entries.data(), want,
                                static_cast<off_t>((first + page) * sizeof entries[0]));
    if (got < static_cast<ssize_t>(sizeof entries[0])) return false;
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof entries[0]; ++i, ++page)
      if ((entries[i] & kThere) != 0) pages[page] = true;
  }
  return true;
}

}  // namespace

std::optional<std::vector<bool>> touched_pages(const RamBlock& block) {
  Pages pages(block.size_bytes() / kDirtyPageBytes);
  if (block.fd() >= 0 && !(is_tmpfs(block.fd()) && add_file(pages, block.fd()))) return {};
  if (!block.shared() && !add_mapped(pages, block.host())) return {};
  return pages;
}

}  // namespace rhea::memory
