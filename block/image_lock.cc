#include "block/image_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>

#include "util/log.h"

namespace rhea::block {
namespace {

constexpr int kTakenBase = 100;
constexpr int kUnsharedBase = 200;
constexpr int kPermissions = 4;

bool has_bit(uint8_t set, int bit) { return ((set >> bit) & 1) != 0; }

std::string name_of(int bit) { return to_string(static_cast<Perm>(1 << bit)); }

/// 0 or errno.
int set_lock(int fd, short type, int byte) noexcept {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  while (::fcntl(fd, F_OFD_SETLK, &lock) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

/// Whether another open description holds a lock on the byte; then its process, or -1.
Result<std::optional<pid_t>> find_lock(int fd, int byte) {
  struct flock lock{};
  lock.l_type = F_WRLCK;  // conflicts with a shared one as well
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_GETLK, &lock) < 0) return fail_errno(errno, "cannot look at file locks");
  if (lock.l_type == F_UNLCK) return std::optional<pid_t>();
  return std::optional(lock.l_pid);
}

/// "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:1234 101 101": whether a lock that covers `byte`.
bool covers(std::string_view line, int byte) {
  if (!line.starts_with("lock:")) return false;
  const size_t last_space = line.rfind(' ');
  const size_t first_space = line.rfind(' ', last_space - 1);
  if (last_space == line.npos || first_space == line.npos) return false;
  const std::string_view from = line.substr(first_space + 1, last_space - first_space - 1);
  const std::string_view to = line.substr(last_space + 1);
  int64_t first = 0, last = INT64_MAX;  // "EOF" stays
  std::from_chars(from.data(), from.data() + from.size(), first);
  std::from_chars(to.data(), to.data() + to.size(), last);
  return first <= byte && byte <= last;
}

bool holds(const std::filesystem::path& fdinfo, int byte) {
  std::ifstream in(fdinfo);
  for (std::string line; std::getline(in, line);) {
    if (covers(line, byte)) return true;
  }
  return false;
}

/// Whether the process has `image` open with a lock on the byte. `own` is not looked at: it is the
/// asking descriptor.
bool process_holds(const std::filesystem::path& process, const struct stat& image, int byte,
                   int own) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator fds(process / "fd", ignored), end;
       !ignored && fds != end; fds.increment(ignored)) {
    const auto number = fds->path().filename();
    struct stat status{};
    if (number == std::to_string(own) || ::stat(fds->path().c_str(), &status) < 0) continue;
    if (status.st_dev != image.st_dev || status.st_ino != image.st_ino) continue;
    if (holds(process / "fdinfo" / number, byte)) return true;
  }
  return false;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

/// The kernel names no process for a lock of an open file description: looks for it in /proc.
std::optional<std::string> find_holder(int fd, int byte) {
  struct stat image{};
  if (::fstat(fd, &image) < 0) return std::nullopt;
  const std::string self = std::to_string(::getpid());
  std::error_code ignored;
  for (std::filesystem::directory_iterator processes("/proc", ignored), end;
       !ignored && processes != end; processes.increment(ignored)) {
    const std::string pid = processes->path().filename();
    if (!is_number(pid)) continue;
    if (process_holds(processes->path(), image, byte, pid == self ? fd : -1)) return pid;
  }
  return std::nullopt;
}

std::string describe_process(const std::string& pid) {
  if (pid == std::to_string(::getpid())) return "this process";
  std::string name;
  std::ifstream in("/proc/" + pid + "/comm");
  if (!std::getline(in, name)) return "process " + pid;
  return fmt::format("process {} ({})", pid, name);
}

}  // namespace

ImageLock::Bytes ImageLock::bytes_of(const Permissions& permissions) noexcept {
  return {.taken = static_cast<uint8_t>(permissions.taken),
          .unshared = static_cast<uint8_t>(~permissions.shared)};
}

Error ImageLock::refused(int byte, std::string_view what) const {
  std::string text =
      fmt::format("Failed to get {} lock: Is another process using the image [{}]?", what, path_);
  if (const auto pid = find_holder(fd_, byte)) {
    text += fmt::format(" It is held by {}", describe_process(*pid));
  }
  return Error(ErrorKind::kBusy, std::move(text), EAGAIN);
}

Result<void> ImageLock::take(const Bytes& wanted) {
  for (int bit = 0; bit < kPermissions; ++bit) {
    struct Row {
      uint8_t wanted;
      uint8_t& held;
      int byte;
    };
    for (const Row& row : {Row{wanted.taken, held_.taken, kTakenBase + bit},
                           Row{wanted.unshared, held_.unshared, kUnsharedBase + bit}}) {
      if (!has_bit(row.wanted, bit) || has_bit(row.held, bit)) continue;
      if (const int e = set_lock(fd_, F_RDLCK, row.byte); e == EAGAIN || e == EACCES) {
        return refused(row.byte, fmt::format("\"{}\"", name_of(bit)));
      } else if (e != 0) {
        return fail_errno(e, "Failed to lock byte {} of '{}' (locking=off does without)", row.byte,
                          path_);
      }
      row.held = static_cast<uint8_t>(row.held | 1 << bit);
    }
  }
  return ok();
}

Result<void> ImageLock::ask(const Bytes& wanted) const {
  for (int bit = 0; bit < kPermissions; ++bit) {
    if (has_bit(wanted.taken, bit) && TRY(find_lock(fd_, kUnsharedBase + bit)).has_value()) {
      return refused(kUnsharedBase + bit, fmt::format("\"{}\"", name_of(bit)));
    }
  }
  for (int bit = 0; bit < kPermissions; ++bit) {
    if (has_bit(wanted.unshared, bit) && TRY(find_lock(fd_, kTakenBase + bit)).has_value()) {
      return refused(kTakenBase + bit, fmt::format("shared \"{}\"", name_of(bit)));
    }
  }
  return ok();
}

void ImageLock::keep_only(const Bytes& wanted) noexcept {
  for (int bit = 0; bit < kPermissions; ++bit) {
    if (has_bit(held_.taken, bit) && !has_bit(wanted.taken, bit)) {
      set_lock(fd_, F_UNLCK, kTakenBase + bit);
    }
    if (has_bit(held_.unshared, bit) && !has_bit(wanted.unshared, bit)) {
      set_lock(fd_, F_UNLCK, kUnsharedBase + bit);
    }
  }
  held_.taken &= wanted.taken;
  held_.unshared &= wanted.unshared;
}

Result<void> ImageLock::prepare(const Permissions& needs) {
  const Bytes wanted = bytes_of(needs);
  auto result = take(wanted);
  if (result) result = ask(wanted);
  if (!result) abort();
  return result;
}

void ImageLock::commit(const Permissions& needs) noexcept {
  agreed_ = bytes_of(needs);
  keep_only(agreed_);
}

void ImageLock::abort() noexcept { keep_only(agreed_); }

Result<void> ImageLock::copy_to(int fd) const {
  ImageLock copy(fd, path_);
  return copy.take(held_);
}

void ImageLock::move_to(int fd) noexcept {
  keep_only({});
  fd_ = fd;
  held_ = {.taken = 0xf, .unshared = 0xf};  // at most
  keep_only(agreed_);
}

void ImageLock::release() noexcept {
  agreed_ = {};
  keep_only(agreed_);
}

}  // namespace rhea::block
