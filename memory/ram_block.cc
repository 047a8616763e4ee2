#include "memory/ram_block.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "util/check.h"

// glibc 2.36 has the call but not yet the names.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace rhea::memory {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMiB = 1 << 20;
// The largest transparent huge page: a block at least this large starts on its boundary, so that
// the accelerator may map it with huge pages too.
constexpr uint64_t kTransparentHugePageBytes = 2 * kMiB;
constexpr int kHugePageShift = 26;  // MAP_HUGE_SHIFT and MFD_HUGE_SHIFT

std::string size_text(uint64_t bytes) {
  return bytes % kMiB == 0 ? fmt::format("{} MiB", bytes / kMiB) : fmt::format("{} bytes", bytes);
}

Result<void> check_config(const RamBlockConfig& c) {
  using Type = RamBlockConfig::Type;
  if (c.size_bytes == 0) return fail(ErrorKind::kInvalidArgument, "RAM size must not be 0");
  if (c.size_bytes % kPageBytes != 0) {
    return fail(ErrorKind::kInvalidArgument, "RAM size {} is not a multiple of {}", c.size_bytes,
                kPageBytes);
  }
  if (c.size_bytes > uint64_t{1} << 52) {
    return fail(ErrorKind::kInvalidArgument, "RAM size {} is beyond what a guest can address",
                size_text(c.size_bytes));
  }
  if ((c.type == Type::kFile) == c.path.empty()) {
    return Error(ErrorKind::kInvalidArgument, c.path.empty() ? "file-backed RAM needs a path"
                                                             : "only file-backed RAM has a path");
  }
  if (c.hugetlb && c.type != Type::kMemfd) {
    return fail(ErrorKind::kInvalidArgument,
                "huge pages need a memfd, or a file on a hugetlbfs mount");
  }
  if (c.hugetlb_size_bytes != 0 && !c.hugetlb) {
    return fail(ErrorKind::kInvalidArgument, "a huge page size without huge pages");
  }
  if (c.hugetlb_size_bytes != 0 &&
      (!std::has_single_bit(c.hugetlb_size_bytes) || c.hugetlb_size_bytes <= kPageBytes)) {
    return fail(ErrorKind::kInvalidArgument, "{} is not the size of a huge page",
                c.hugetlb_size_bytes);
  }
  if (c.share && c.type == Type::kAnonymous) {
    return fail(ErrorKind::kInvalidArgument, "RAM can only be shared through a memfd or a file");
  }
  return ok();
}

Result<void> check_page_multiple(uint64_t size_bytes, uint64_t page_bytes) {
  if (size_bytes % page_bytes == 0) return ok();
  return fail(ErrorKind::kInvalidArgument, "RAM size {} is not a multiple of the page size {}",
              size_text(size_bytes), size_text(page_bytes));
}

uint64_t page_bytes_of(int fd) {
  struct statfs fs{};
  constexpr auto kHugetlbfsMagic = 0x958458f6;
  if (::fstatfs(fd, &fs) == 0 && fs.f_type == kHugetlbfsMagic) {
    return static_cast<uint64_t>(fs.f_bsize);
  }
  return kPageBytes;
}

Result<Fd> open_temporary(const std::string& directory) {
  std::string path = directory + "/rhea-ram-XXXXXX";
  // Not O_TMPFILE: hugetlbfs, the usual directory here, does not have it on every kernel.
  const int fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, "cannot create a file in '{}'", directory);
  ::unlink(path.c_str());
  return Fd(fd);
}

// Opens or creates `path`. A file that exists must be large enough: it is somebody's data, so it is
// neither grown nor cut.
Result<Fd> open_named(const std::string& path, uint64_t size_bytes) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd && errno == ENOENT) {
    fd = Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  }
  if (!fd) return fail_errno(errno, "cannot open '{}'", path);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return fail_errno(errno, "cannot examine '{}'", path);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorKind::kInvalidArgument, "'{}' is neither a file nor a directory", path);
  }
  if (info.st_size != 0 && static_cast<uint64_t>(info.st_size) < size_bytes) {
    return fail(ErrorKind::kInvalidArgument, "'{}' has {} bytes, the RAM needs {}", path,
                info.st_size, size_bytes);
  }
  return fd;
}

bool is_directory(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// What the host could give without killing somebody for it, if it says so.
std::optional<uint64_t> available_memory_bytes() {
  std::FILE* file = std::fopen("/proc/meminfo", "re");
  if (file == nullptr) return std::nullopt;
  uint64_t total_kib = 0;
  bool found = false;
  char line[128];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long long kib = 0;
    if (std::sscanf(line, "MemAvailable: %llu", &kib) == 1) found = true;
    if (kib != 0 || std::sscanf(line, "SwapFree: %llu", &kib) == 1) total_kib += kib;
  }
  std::fclose(file);
  if (!found) return std::nullopt;
  return total_kib * 1024;
}

Error no_memory(const RamBlockConfig& config, int os_errno) {
  return Error(ErrorKind::kResource,
               fmt::format("cannot map {}: {}", size_text(config.size_bytes),
                           Error::from_errno(os_errno, "host").message()),
               os_errno);
}

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Result<RamBlock::Backing> RamBlock::open_memfd(const RamBlockConfig& config) {
  unsigned flags = MFD_CLOEXEC;
  if (config.hugetlb) flags |= MFD_HUGETLB;
  if (config.hugetlb_size_bytes != 0) {
    flags |= static_cast<unsigned>(std::countr_zero(config.hugetlb_size_bytes)) << kHugePageShift;
  }
  Backing backing{.fd = Fd(::memfd_create(config.name.c_str(), flags)), .page_bytes = 0};
  if (!backing.fd) {
    const int os_errno = errno;
    if (config.hugetlb && (os_errno == ENODEV || os_errno == EINVAL || os_errno == ENOSYS)) {
      return fail(ErrorKind::kUnsupported, "the host has no huge pages of {}",
                  config.hugetlb_size_bytes == 0 ? std::string("any size")
                                                 : size_text(config.hugetlb_size_bytes));
    }
    return fail_errno(os_errno, "memfd_create");
  }
  backing.page_bytes = page_bytes_of(backing.fd.get());
  return backing;
}

Result<RamBlock::Backing> RamBlock::open_file(const RamBlockConfig& config) {
  Backing backing;
  backing.fd = is_directory(config.path) ? TRY(open_temporary(config.path))
                                         : TRY(open_named(config.path, config.size_bytes));
  backing.page_bytes = page_bytes_of(backing.fd.get());
  return backing;
}

Result<RamBlock::Backing> RamBlock::open_backing(const RamBlockConfig& config) {
  if (config.type == RamBlockConfig::Type::kAnonymous) {
    return Backing{.fd = Fd(), .page_bytes = kPageBytes};
  }
  Backing backing = config.type == RamBlockConfig::Type::kMemfd ? TRY(open_memfd(config))
                                                                : TRY(open_file(config));
  TRY(check_page_multiple(config.size_bytes, backing.page_bytes));
  struct stat info{};
  if (::fstat(backing.fd.get(), &info) != 0) return fail_errno(errno, "fstat");
  if (static_cast<uint64_t>(info.st_size) < config.size_bytes &&
      ::ftruncate(backing.fd.get(), static_cast<off_t>(config.size_bytes)) != 0) {
    return fail_errno(errno, "cannot make room for {}", size_text(config.size_bytes));
  }
  return backing;
}

Result<RamBlock::Mapping> RamBlock::map(const RamBlockConfig& config, const Backing& backing) {
  const uint64_t natural = config.size_bytes >= kTransparentHugePageBytes
                               ? kTransparentHugePageBytes
                               : backing.page_bytes;
  const uint64_t align = std::max(natural, backing.page_bytes);
  // A guard page in front, the block on its boundary, a guard page behind: address space is free.
  const uint64_t reserved_bytes = config.size_bytes + 2 * align;
  void* reserved = ::mmap(nullptr, reserved_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return no_memory(config, errno);
  const auto start = reinterpret_cast<uintptr_t>(reserved);
  const uint64_t lead = round_up(start + kPageBytes, align) - start;
  std::byte* host = static_cast<std::byte*>(reserved) + lead;
  int flags = MAP_FIXED | (config.share ? MAP_SHARED : MAP_PRIVATE);
  if (!backing.fd) flags |= MAP_ANONYMOUS;
  if (::mmap(host, config.size_bytes, PROT_READ | PROT_WRITE, flags, backing.fd.get(), 0) ==
      MAP_FAILED) {
    const int os_errno = errno;
    ::munmap(reserved, reserved_bytes);
    return no_memory(config, os_errno);
  }
  return Mapping{static_cast<std::byte*>(reserved), reserved_bytes, host};
}

RamBlock::RamBlock(const RamBlockConfig& config, Backing backing, const Mapping& mapping)
    : name_(config.name),
      size_bytes_(config.size_bytes),
      shared_(config.share),
      fd_(std::move(backing.fd)),
      page_bytes_(backing.page_bytes),
      preallocated_(config.prealloc),
      mapping_(mapping),
      host_(mapping.host),
      dirty_(config.size_bytes) {
  // All advice: a kernel that refuses one of them loses speed or disk space, nothing else. A child
  // process has no business with guest memory, and a core dump without it is one that gets written.
  ::madvise(host_, size_bytes_, MADV_DONTFORK);
  ::madvise(host_, size_bytes_, MADV_DONTDUMP);
  if (page_bytes_ == kPageBytes) ::madvise(host_, size_bytes_, MADV_HUGEPAGE);
}

RamBlock::~RamBlock() { ::munmap(mapping_.reserved, mapping_.reserved_bytes); }

Result<void> RamBlock::preallocate() const {
  // Asking for more than there is ends in the host killing a process, not in an error. Huge pages
  // come from a pool of their own, and mmap() has reserved them.
  const auto available = available_memory_bytes();
  if (page_bytes_ == kPageBytes && available && *available < size_bytes_) {
    return fail(ErrorKind::kResource, "cannot preallocate {}: the host has {} MiB left",
                size_text(size_bytes_), *available / kMiB);
  }
  int result = 0;
  do {
    result = ::madvise(host_, size_bytes_, MADV_POPULATE_WRITE);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) return ok();
  const int os_errno = errno;
  if (os_errno == EINVAL) {
    return fail(ErrorKind::kUnsupported, "cannot preallocate RAM: the kernel is older than 5.14");
  }
  // EFAULT is what a write would have been a SIGBUS for: the file system or the huge-page pool ran
  // out.
  return Error(ErrorKind::kResource,
               fmt::format("cannot preallocate {}: the host ran out of memory or space for it",
                           size_text(size_bytes_)),
               os_errno);
}

Result<std::shared_ptr<RamBlock>> RamBlock::create(const RamBlockConfig& config) {
  const auto build = [&]() -> Result<std::shared_ptr<RamBlock>> {
    TRY(check_config(config));
    Backing backing = TRY(open_backing(config));
    const Mapping mapping = TRY(map(config, backing));
    std::shared_ptr<RamBlock> block(new RamBlock(config, std::move(backing), mapping));
    if (config.prealloc) TRY(block->preallocate());
    return block;
  };
  auto block = build();
  if (!block) return std::move(block).error().context(fmt::format("RAM '{}'", config.name));
  return block;
}

}  // namespace rhea::memory
