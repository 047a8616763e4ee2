#include "vmm/pidfile.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "util/parse.h"

namespace rhea::vmm {
namespace {

/// An open-file lock: unlike a process's, it is not dropped when some other descriptor of the same
/// file is closed. It conflicts with a process's lock, so QEMU respects ours and we respect QEMU's.
bool lock_whole_file(int fd) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/// Whether `path` still names the open file: its last owner may have removed it while we opened it.
bool still_names(const std::string& path, int fd) {
  struct stat by_path{};
  struct stat by_fd{};
  return ::stat(path.c_str(), &by_path) == 0 && ::fstat(fd, &by_fd) == 0 &&
         by_path.st_dev == by_fd.st_dev && by_path.st_ino == by_fd.st_ino;
}

/// Anything else is not ours to remove: think of /dev/null.
bool is_regular(int fd) {
  struct stat file{};
  return ::fstat(fd, &file) == 0 && S_ISREG(file.st_mode);
}

Error held_by_other(int fd, const std::string& path) {
  std::array<char, 32> text;
  const ssize_t length = ::pread(fd, text.data(), text.size(), 0);
  std::string_view pid(text.data(), length > 0 ? static_cast<size_t>(length) : 0);
  pid = pid.substr(0, pid.find('\n'));
  if (!parse_uint(pid)) return fail(ErrorKind::kBusy, "'{}' is in use by another instance", path);
  return fail(ErrorKind::kBusy, "'{}' is in use by another instance, process {}", path, pid);
}

Result<Fd> open_locked(const std::string& path) {
  while (true) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, S_IRUSR | S_IWUSR));
    if (!fd) return fail_errno(errno, "cannot create PID file: Could not create '{}'", path);
    if (!is_regular(fd.get())) {
      return fail(ErrorKind::kInvalidArgument, "cannot create PID file: '{}' is not a regular file",
                  path);
    }
    if (!lock_whole_file(fd.get())) {
      if (errno == EAGAIN || errno == EACCES) return held_by_other(fd.get(), path);
      return fail_errno(errno, "cannot create PID file: Could not lock '{}'", path);
    }
    if (still_names(path, fd.get())) return fd;
  }
}

/// The end of the process may find another working directory, and must remove the right file.
std::string absolute(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  std::string result = resolved != nullptr ? resolved : path;
  std::free(resolved);
  return result;
}

}  // namespace

Pidfile::Pidfile(Fd fd, std::string path)
    : fd_(std::move(fd)), path_(std::move(path)), owner_(::getpid()) {}

Result<Pidfile> Pidfile::create(const std::string& path) {
  Fd fd = TRY(open_locked(path));
  const std::string text = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd.get(), 0) != 0) {
    return fail_errno(errno, "cannot create PID file: Could not truncate '{}'", path);
  }
  auto written = write_all(fd.get(), std::string_view(text));
  if (!written) {
    ::unlink(path.c_str());
    return std::move(written).error().context("cannot create PID file");
  }
  return Pidfile(std::move(fd), absolute(path));
}

Pidfile::~Pidfile() {
  // Removed while it is still locked: nobody else can own it by then.
  if (fd_ && owner_ == ::getpid() && still_names(path_, fd_.get())) ::unlink(path_.c_str());
}

}  // namespace rhea::vmm
