#include "vmm/boot/boot_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace rhea::vmm {
namespace {

constexpr size_t kChunk = 256 << 10;

}  // namespace

Result<void> ByteSource::read(uint64_t offset, std::span<std::byte> data) const {
  if (offset > size_bytes() || data.size() > size_bytes() - offset) {
    return fail(ErrorKind::kCorrupt, "truncated: {} bytes, but {} more are needed at {}",
                size_bytes(), data.size(), offset);
  }
  return do_read(offset, data);
}

Result<std::unique_ptr<FileSource>> FileSource::open(std::string_view role,
                                                     const std::string& path) {
  std::string name = fmt::format("{} file '{}'", role, path);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(errno, "could not open {}", name);
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0) return fail_errno(errno, "could not stat {}", name);
  if (S_ISDIR(info.st_mode)) return fail(ErrorKind::kInvalidArgument, "{} is a directory", name);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorKind::kInvalidArgument, "{} is not a regular file", name);
  }
  if (info.st_size == 0) return fail(ErrorKind::kCorrupt, "{} is empty", name);
  return std::unique_ptr<FileSource>(
      new FileSource(std::move(fd), std::move(name), static_cast<uint64_t>(info.st_size)));
}

Result<void> FileSource::do_read(uint64_t offset, std::span<std::byte> data) const {
  while (!data.empty()) {
    const ssize_t n = ::pread(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "could not read");
    }
    if (n == 0) return fail(ErrorKind::kCorrupt, "truncated while it was read");
    data = data.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return ok();
}

Result<void> BootMemory::zero(memory::GuestAddr address, uint64_t size_bytes) {
  const std::vector<std::byte> zeros(std::min<uint64_t>(size_bytes, kChunk));
  while (size_bytes > 0) {
    const size_t n = std::min<uint64_t>(size_bytes, zeros.size());
    TRY(write(address, std::span(zeros).first(n)));
    address = address + n;
    size_bytes -= n;
  }
  return ok();
}

Result<void> BootMemory::copy(memory::GuestAddr address, const ByteSource& source, uint64_t offset,
                              uint64_t size_bytes) {
  std::vector<std::byte> buffer(std::min<uint64_t>(size_bytes, kChunk));
  while (size_bytes > 0) {
    const auto chunk = std::span(buffer).first(std::min<uint64_t>(size_bytes, buffer.size()));
    TRY(source.read(offset, chunk));
    TRY(write(address, chunk));
    address = address + chunk.size();
    offset += chunk.size();
    size_bytes -= chunk.size();
  }
  return ok();
}

}  // namespace rhea::vmm
