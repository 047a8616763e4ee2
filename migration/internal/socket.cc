#include "migration/internal/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

namespace rhea::migration::internal {
namespace {

// Room for all channels of a migration (255 and the main one) to knock at once.
constexpr int kBacklog = 256;
// How long a full unix listener is given before the next knock: it can not be polled for room.
constexpr int kBacklogRetryMs = 10;

using Names = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// As error messages name it: a path, or HOST:PORT.
std::string where(const Address& address) {
  return address.kind == Address::Kind::kUnix ? address.target : address.text().substr(4);
}

Result<Names> resolve(const Address& address, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                                  address.port.c_str(), &hints, &found);
  if (error == 0) return Names(found, ::freeaddrinfo);
  return fail(ErrorKind::kNotFound, "address resolution failed for {}: {}", where(address),
              error == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(error));
}

sockaddr_un unix_name(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  // parse_address() has checked the length.
  std::memcpy(name.sun_path, path.data(), std::min(path.size(), sizeof name.sun_path - 1));
  return name;
}

Result<Fd> open_socket(int family) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "Failed to create a socket");
  return fd;
}

/// Waits for `fd` (-1: nothing) to become writable, or for the time to pass; kCancelled if thrown.
Result<void> wait_or_cancelled(int fd, const Cancel& cancel, int timeout_ms) {
  pollfd waits[] = {{.fd = fd, .events = POLLOUT, .revents = 0},
                    {.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
  while (::poll(waits, 2, timeout_ms) < 0) {
    if (errno != EINTR) return fail_errno(errno, "poll");
  }
  if (cancel.cancelled()) return Error(ErrorKind::kCancelled, "cancelled");
  return ok();
}

int pending_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

Result<void> connect_one(int fd, const sockaddr* name, socklen_t size, const Cancel& cancel) {
  for (;;) {
    if (cancel.cancelled()) return Error(ErrorKind::kCancelled, "cancelled");
    if (::connect(fd, name, size) == 0) return ok();
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      TRY(wait_or_cancelled(-1, cancel, kBacklogRetryMs));
      continue;
    }
    if (errno != EINPROGRESS) return Error(ErrorKind::kIo, std::strerror(errno), errno);
    TRY(wait_or_cancelled(fd, cancel, -1));
    const int error = pending_error(fd);
    if (error == 0) return ok();
    return Error(ErrorKind::kIo, std::strerror(error), error);
  }
}

/// "Failed to connect to 'x': Connection refused", with the kind that errno has.
Error connect_error(const Address& address, const Error& error) {
  const std::string what = fmt::format("Failed to connect to '{}'", where(address));
  if (error.os_errno() != 0) return Error::from_errno(error.os_errno(), what);
  return Error(error).context(what);
}

Result<uint16_t> bound_port(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) {
    return fail_errno(errno, "getsockname");
  }
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&name)->sin6_port
                                          : reinterpret_cast<sockaddr_in*>(&name)->sin_port);
}

Result<Fd> bind_and_listen(int family, const sockaddr* name, socklen_t size,
                           const Address& address) {
  Fd fd = TRY(open_socket(family));
  const int yes = 1;
  if (family != AF_UNIX) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(fd.get(), name, size) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    return fail_errno(errno, "Failed to listen on '{}'", where(address));
  }
  return fd;
}

Result<ListeningSocket> listen_unix(const Address& address) {
  // What a former instance has left; never a file that is something else.
  struct stat info{};
  if (::lstat(address.target.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    ::unlink(address.target.c_str());
  }
  const sockaddr_un name = unix_name(address.target);
  Fd fd =
      TRY(bind_and_listen(AF_UNIX, reinterpret_cast<const sockaddr*>(&name), sizeof name, address));
  return ListeningSocket{std::move(fd), address};
}

Result<ListeningSocket> listen_tcp(const Address& address) {
  const Names names = TRY(resolve(address, AI_PASSIVE));
  Result<ListeningSocket> result = fail(ErrorKind::kNotFound, "'{}' has no address", address.host);
  for (const addrinfo* name = names.get(); name != nullptr; name = name->ai_next) {
    auto fd = bind_and_listen(name->ai_family, name->ai_addr, name->ai_addrlen, address);
    if (!fd) {
      result = std::move(fd).error();
      continue;
    }
    Address bound = address;
    bound.port = fmt::format("{}", TRY(bound_port(fd->get())));
    return ListeningSocket{std::move(*fd), std::move(bound)};
  }
  return result;
}

}  // namespace

void set_no_delay(int fd) noexcept {
  const int yes = 1;
  // Fails on a unix socket, which does not delay.
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

Result<Fd> connect_socket(const Address& address, const Cancel& cancel) {
  if (address.kind == Address::Kind::kUnix) {
    const sockaddr_un name = unix_name(address.target);
    Fd fd = TRY(open_socket(AF_UNIX));
    auto done =
        connect_one(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name, cancel);
    if (!done) return connect_error(address, done.error());
    return fd;
  }
  const Names names = TRY(resolve(address, 0));
  Result<Fd> result = fail(ErrorKind::kNotFound, "'{}' has no address", address.host);
  for (const addrinfo* name = names.get(); name != nullptr; name = name->ai_next) {
    Fd fd = TRY(open_socket(name->ai_family));
    auto done = connect_one(fd.get(), name->ai_addr, name->ai_addrlen, cancel);
    if (done) {
      set_no_delay(fd.get());
      return fd;
    }
    result = connect_error(address, done.error());
    if (cancel.cancelled()) break;
  }
  return result;
}

Result<ListeningSocket> listen_socket(const Address& address) {
  return address.kind == Address::Kind::kUnix ? listen_unix(address) : listen_tcp(address);
}

}  // namespace rhea::migration::internal
