#include "block/internal/host_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <climits>

#include "block/aligned_buffer.h"

namespace rhea::block::internal {
namespace {

constexpr uint32_t kSector = 512;
/// For what does not say, and can not be asked: a page, which every host takes.
constexpr uint32_t kSafeAlignment = 4096;

Error open_error(const std::string& filename, int os_errno) {
  return fail_errno(os_errno, "Could not open '{}'", filename);
}

/// The smallest of the usual alignments with which `read_once(alignment)` works.
template <class F>
uint32_t probe(F&& read_once) {
  for (uint32_t alignment = kSector; alignment < kSafeAlignment; alignment *= 2) {
    if (read_once(alignment)) return alignment;
  }
  return kSafeAlignment;
}

/// Finds what direct I/O demands by reading the first bytes in ever coarser ways. A file that takes
/// single bytes, as one without blocks does, says nothing about those to come.
void probe_alignment(int fd, BlockLimits& limits) {
  AlignedBuffer buffer(size_t{2} * kSafeAlignment, kSafeAlignment);
  const auto works = [&](size_t shift, size_t size) {
    return ::pread(fd, buffer.bytes().data() + shift, size, 0) >= 0;
  };
  limits.request_alignment = kSafeAlignment;
  limits.memory_alignment = kSafeAlignment;
  if (works(0, 1) || !works(0, kSafeAlignment)) return;
  limits.request_alignment = probe([&](uint32_t alignment) { return works(0, alignment); });
  limits.memory_alignment =
      probe([&](uint32_t alignment) { return works(alignment, kSafeAlignment); });
}

/// What the file system or the disk says that direct I/O demands; false if it does not say.
bool ask_alignment(int fd, BlockLimits& limits) {
#ifdef STATX_DIOALIGN
  struct statx answer{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) == 0 &&
      (answer.stx_mask & STATX_DIOALIGN) != 0 && answer.stx_dio_offset_align != 0 &&
      std::has_single_bit(answer.stx_dio_offset_align) &&
      std::has_single_bit(answer.stx_dio_mem_align)) {
    limits.request_alignment = answer.stx_dio_offset_align;
    limits.memory_alignment = answer.stx_dio_mem_align;
    return true;
  }
#endif
  return false;
}

Result<void> find_limits(HostFile& file, const struct stat& status) {
  file.limits.max_pieces = IOV_MAX;
  file.limits.discard_alignment =
      std::bit_floor(static_cast<uint32_t>(std::clamp<int64_t>(status.st_blksize, 1, 1 << 20)));
  if (file.is_block_device) {
    int sector = 0;
    if (::ioctl(file.fd.get(), BLKSSZGET, &sector) < 0) {
      return fail_errno(errno, "cannot read the size of sectors");
    }
    if (sector <= 0 || !std::has_single_bit(static_cast<uint32_t>(sector))) {
      return fail(ErrorKind::kUnsupported, "its sectors are of {} bytes", sector);
    }
    file.limits.discard_alignment = static_cast<uint32_t>(sector);
    if (file.mode.direct) {
      file.limits.request_alignment = file.limits.memory_alignment = static_cast<uint32_t>(sector);
    }
  }
  if (!file.mode.direct || ask_alignment(file.fd.get(), file.limits) || file.is_block_device) {
    return ok();
  }
  probe_alignment(file.fd.get(), file.limits);
  return ok();
}

Result<void> check_kind(HostFile& file, const struct stat& status, const std::string& filename,
                        HostFileKind kind) {
  file.is_block_device = S_ISBLK(status.st_mode);
  if (!file.is_block_device && kind == HostFileKind::kBlockDevice) {
    return fail(ErrorKind::kInvalidArgument,
                "'host_device' driver requires '{}' to be a block device", filename);
  }
  if (!file.is_block_device && !S_ISREG(status.st_mode)) {
    return fail(ErrorKind::kInvalidArgument,
                "'file' driver requires '{}' to be a regular file or a block device", filename);
  }
  file.device = file.is_block_device ? status.st_rdev : status.st_dev;
  // Two special files of one device are one image.
  file.inode = file.is_block_device ? 0 : status.st_ino;
  int read_only = 0;
  if (file.is_block_device && file.mode.writable &&
      ::ioctl(file.fd.get(), BLKROGET, &read_only) == 0 && read_only != 0) {
    return open_error(filename, EROFS);
  }
  return ok();
}

}  // namespace

Result<HostFile> open_host_file(const std::string& filename, OpenMode mode, HostFileKind kind) {
  HostFile file;
  file.mode = mode;
  // Non-blocking, because a pipe would wait for its other end here before it could be refused.
  const int flags = (mode.writable ? O_RDWR : O_RDONLY) | (mode.direct ? O_DIRECT : 0) | O_CLOEXEC |
                    O_NONBLOCK | O_NOCTTY;
  file.fd = Fd(::open(filename.c_str(), flags));
  if (!file.fd) {
    if (const int e = errno; e != EINVAL || !mode.direct) return open_error(filename, e);
    return fail(ErrorKind::kUnsupported,
                "Could not open '{}': file system may not support O_DIRECT: {}", filename,
                "Invalid argument");
  }
  struct stat status{};
  if (::fstat(file.fd.get(), &status) < 0) return open_error(filename, errno);
  TRY(check_kind(file, status, filename, kind));
  // Reads of a non-blocking file would come back with EAGAIN from io_uring.
  TRY(set_nonblocking(file.fd.get(), false));
  if (auto found = find_limits(file, status); !found) {
    return std::move(found).error().context(fmt::format("Could not open '{}'", filename));
  }
  return file;
}

Result<uint64_t> host_file_length(const HostFile& file, int fd) {
  if (file.is_block_device) {
    uint64_t bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &bytes) == 0) return bytes;
    return fail_errno(errno, "Could not get the size of the block device");
  }
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno(errno, "Could not get the image size");
  return (static_cast<uint64_t>(status.st_size) + kSector - 1) / kSector * kSector;
}

}  // namespace rhea::block::internal
