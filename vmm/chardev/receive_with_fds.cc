#include "vmm/chardev/receive_with_fds.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

#include "devices/chardev.h"
#include "util/log.h"

namespace rhea::vmm {
namespace {

constexpr size_t kControlBytes = CMSG_SPACE(devices::CharFrontend::kMostFds * sizeof(int));

std::vector<Fd> fds_of(msghdr& message) {
  std::vector<Fd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof number, sizeof number);
      fds.emplace_back(number);
    }
  }
  return fds;
}

/// How many bytes to read, so that descriptors can come with the first one only. Looks without
/// room for descriptors: the kernel says that it has left some out, and makes none.
ssize_t bytes_to_read(int socket, std::span<std::byte> buffer) {
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const ssize_t there = ::recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT);
  return there > 0 && (message.msg_flags & MSG_CTRUNC) != 0 ? 1 : there;
}

}  // namespace

bool passes_fds(int socket) {
  int domain = 0;
  socklen_t length = sizeof domain;
  return ::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

Received receive_with_fds(int socket, std::span<std::byte> buffer) {
  const ssize_t wanted = bytes_to_read(socket, buffer);
  if (wanted <= 0) return {.bytes = wanted};
  iovec part{.iov_base = buffer.data(), .iov_len = static_cast<size_t>(wanted)};
  alignas(cmsghdr) std::array<std::byte, kControlBytes> control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t bytes = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (bytes < 0) return {.bytes = bytes};
  Received received{.bytes = bytes, .fds = fds_of(message)};
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    // No warning: a client could fill the log.
    RHEA_LOG(kVmm, kDebug, "of the descriptors of a message only {} came", received.fds.size());
  }
  return received;
}

}  // namespace rhea::vmm
