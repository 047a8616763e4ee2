#include "util/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

namespace rhea {

void Fd::reset() noexcept {
  if (fd_ < 0) return;
  // Linux frees the number even when close reports EINTR, so it is never called twice.
  ::close(fd_);
  fd_ = -1;
}

Result<Fd> make_eventfd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail_errno(errno, "eventfd");
  return Fd(fd);
}

void signal_eventfd(int fd) noexcept {
  const uint64_t one = 1;
  // EAGAIN means the counter is full: the reader is already due to wake, nothing is lost.
  while (::write(fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

bool clear_eventfd(int fd) noexcept {
  uint64_t count = 0;
  ssize_t n = 0;
  while ((n = ::read(fd, &count, sizeof count)) < 0 && errno == EINTR) {
  }
  return n == static_cast<ssize_t>(sizeof count);
}

Result<Pipe> make_pipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) < 0) return fail_errno(errno, "pipe");
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

Result<void> set_nonblocking(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_errno(errno, "fcntl(F_GETFL)");
  const int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted != flags && ::fcntl(fd, F_SETFL, wanted) < 0) {
    return fail_errno(errno, "fcntl(F_SETFL)");
  }
  return ok();
}

Result<void> write_all(int fd, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "write");
    }
    data = data.subspan(static_cast<size_t>(n));
  }
  return ok();
}

Result<void> write_all(int fd, std::string_view text) {
  return write_all(fd, std::as_bytes(std::span(text)));
}

}  // namespace rhea
