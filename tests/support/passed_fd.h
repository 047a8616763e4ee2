// A descriptor to pass, that shows when the last copy of it has gone; and how to pass some.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "util/check.h"
#include "util/fd.h"

namespace rhea::test {

/// A pipe whose write end is given away: its read end hangs up when no copy is open any more.
class PassedFd {
 public:
  PassedFd() {
    auto made = make_pipe();
    RHEA_CHECK(made.has_value(), "pipe");
    pipe_ = *std::move(made);
  }

  int number() const noexcept { return pipe_.write.get(); }
  /// The test has none afterwards.
  Fd give() { return std::exchange(pipe_.write, Fd()); }
  void close_own() { pipe_.write.reset(); }
  /// Whether a copy is open somewhere.
  bool is_open() const {
    pollfd state{.fd = pipe_.read.get(), .events = POLLIN, .revents = 0};
    RHEA_CHECK(::poll(&state, 1, 0) >= 0, "poll");
    return (state.revents & POLLHUP) == 0;
  }
  /// Whether `fd` is a copy.
  bool is(int fd) const {
    struct stat ours{}, theirs{};
    return ::fstat(pipe_.read.get(), &ours) == 0 && ::fstat(fd, &theirs) == 0 &&
           ours.st_ino == theirs.st_ino;
  }

 private:
  Pipe pipe_;
};

inline std::vector<Fd> set_of(Fd fd) {
  std::vector<Fd> set;
  set.push_back(std::move(fd));
  return set;
}

/// Sends `text` with copies of descriptors as one message.
inline void send_with_fds(int socket, std::string_view text, std::span<const int> numbers) {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(64 * sizeof(int))> control{};
  RHEA_CHECK(numbers.size() <= 64, "too many to pass");
  iovec part{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(numbers.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(numbers.size_bytes());
  std::memcpy(CMSG_DATA(header), numbers.data(), numbers.size_bytes());
  const ssize_t sent = ::sendmsg(socket, &message, 0);
  RHEA_CHECK(sent == static_cast<ssize_t>(text.size()), "sendmsg");
}

}  // namespace rhea::test
