#include "memory/holes.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace rhea::memory {
namespace {

// Elsewhere what a mapping has stored need not be where the file system looks for data.
bool is_tmpfs(int fd) {
  struct statfs fs{};
  return ::fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

off_t byte_of(uint64_t page) { return static_cast<off_t>(page * kDirtyPageBytes); }
uint64_t page_of(off_t byte) { return static_cast<uint64_t>(byte) / kDirtyPageBytes; }

}  // namespace

Holes::Holes(const RamBlock& block, Fd pagemap) : block_(&block), pagemap_(std::move(pagemap)) {
  if (block.fd() < 0) hole_of_file_ = {0, block.size_bytes() / kDirtyPageBytes};
}

std::optional<Holes> Holes::of(const RamBlock& block) {
  if (block.fd() >= 0 && !is_tmpfs(block.fd())) return {};
  Fd pagemap;
  if (!block.shared()) {
    pagemap = Fd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    if (!pagemap) return {};
  }
  return Holes(block, std::move(pagemap));
}

void Holes::refresh() noexcept {
  if (block_->fd() >= 0) hole_of_file_ = {};
  asked_ = {};
}

bool Holes::contains(uint64_t page) {
  if (data_of_file_.contains(page)) return false;
  if (!hole_of_file_.contains(page)) ask_file(page);
  return hole_of_file_.contains(page) && (block_->shared() || !is_mapped(page));
}

// Where it can not be asked there is data.
void Holes::ask_file(uint64_t page) {
  const uint64_t end = block_->size_bytes() / kDirtyPageBytes;
  const off_t data = ::lseek(block_->fd(), byte_of(page), SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    hole_of_file_ = {page, end};
  } else if (data >= byte_of(page + 1)) {
    hole_of_file_ = {page, page_of(data)};
  } else {
    const off_t hole = data < 0 ? -1 : ::lseek(block_->fd(), byte_of(page), SEEK_HOLE);
    data_of_file_ = {page, hole < byte_of(page + 1) ? page + 1 : page_of(hole)};
  }
}

// In memory or in swap, of memory that is this process's own.
// [Linux, admin-guide/mm/pagemap: bit 63 present, bit 62 swapped]
bool Holes::is_mapped(uint64_t page) {
  constexpr uint64_t kThere = uint64_t{3} << 62;
  if (!asked_.contains(page)) {
    const uint64_t first = reinterpret_cast<uintptr_t>(block_->host()) / kDirtyPageBytes + page;
    const ssize_t got = ::pread(pagemap_.get(), entries_.data(), sizeof entries_,
                                static_cast<off_t>(first * sizeof entries_[0]));
    if (got < static_cast<ssize_t>(sizeof entries_[0])) return true;
    asked_ = {page, page + static_cast<uint64_t>(got) / sizeof entries_[0]};
  }
  return (entries_[page - asked_.begin] & kThere) != 0;
}

}  // namespace rhea::memory
