#include "vmm/chardev/socket_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

namespace rhea::vmm {

namespace {

constexpr int kBacklog = 16;  // clients that wait for the one before them to go

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kInvalidArgument,
                "UNIX socket path '{}' is too long: it must be less than {} bytes", path,
                sizeof address.sun_path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

Result<void> remove_stale_socket(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) < 0) return ok();  // bind says what is wrong, if anything is
  if (!S_ISSOCK(status.st_mode)) {
    return fail(ErrorKind::kExists, "Failed to bind socket to {}: it exists and is no socket",
                path);
  }
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) {
    return fail_errno(errno, "Failed to unlink socket {}", path);
  }
  return ok();
}

Result<Fd> new_socket(int family) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "Failed to create socket");
  return fd;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> resolve(const std::string& host, uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                  std::to_string(port).c_str(), &hints, &list);
  if (error != 0) {
    return fail(ErrorKind::kNotFound, "address resolution failed for {}:{}: {}", host, port,
                ::gai_strerror(error));
  }
  return AddressList(list, &::freeaddrinfo);
}

void enable(int fd, int level, int option) {
  const int on = 1;
  ::setsockopt(fd, level, option, &on, sizeof on);  // what it improves is not worth a failure
}

/// The first of the host's addresses for which `use` works, or why the last did not.
Result<Fd> first_that_works(const addrinfo* list, std::string_view what,
                            const std::function<bool(int fd, const addrinfo&)>& use) {
  int error = EADDRNOTAVAIL;
  for (; list != nullptr; list = list->ai_next) {
    Fd fd(::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd && use(fd.get(), *list)) return fd;
    error = errno;
  }
  return fail_errno(error, "{}", what);
}

std::string address_text(int fd, int (*get)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  auto* generic_address = reinterpret_cast<sockaddr*>(&address);
  if (get(fd, generic_address, &length) < 0 || address.ss_family == AF_UNIX) return {};
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> service{};
  if (::getnameinfo(generic_address, length, host.data(), host.size(), service.data(),
                    service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  const bool is_v6 = address.ss_family == AF_INET6;
  return fmt::format("{}{}{}:{}", is_v6 ? "[" : "", host.data(), is_v6 ? "]" : "", service.data());
}

}  // namespace

SocketFile::SocketFile(std::string path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) < 0) return;
  path_ = std::move(path);
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

SocketFile::~SocketFile() {
  struct stat status{};
  if (path_.empty() || ::lstat(path_.c_str(), &status) < 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

Result<UnixListener> listen_unix(const std::string& path) {
  const sockaddr_un address = TRY(unix_address(path));
  TRY(remove_stale_socket(path));
  UnixListener listener{TRY(new_socket(AF_UNIX)), {}};
  const int fd = listener.fd.get();
  // bind gives the file the mode of the socket, less the umask: there is no moment in which others
  // may connect, and the umask, which all threads share, stays as it is.
  if (::fchmod(fd, 0600) < 0 || ::bind(fd, generic(address), sizeof address) < 0) {
    return fail_errno(errno, "Failed to bind socket to {}", path);
  }
  listener.file = SocketFile(path);
  if (::listen(fd, kBacklog) < 0) return fail_errno(errno, "Failed to listen on socket {}", path);
  return listener;
}

Result<Fd> connect_unix(const std::string& path) {
  const sockaddr_un address = TRY(unix_address(path));
  Fd fd = TRY(new_socket(AF_UNIX));
  if (::connect(fd.get(), generic(address), sizeof address) < 0) {
    return fail_errno(errno, "Failed to connect to '{}'", path);
  }
  return fd;
}

Result<Fd> listen_tcp(const std::string& host, uint16_t port) {
  const auto list = TRY(resolve(host, port, AI_PASSIVE));
  const auto use = [](int fd, const addrinfo& address) {
    enable(fd, SOL_SOCKET, SO_REUSEADDR);
    return ::bind(fd, address.ai_addr, address.ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0;
  };
  return first_that_works(list.get(), fmt::format("Failed to listen on {}:{}", host, port), use);
}

Result<Fd> connect_tcp(const std::string& host, uint16_t port) {
  const auto list = TRY(resolve(host, port, 0));
  const auto use = [](int fd, const addrinfo& address) {
    enable(fd, IPPROTO_TCP, TCP_NODELAY);
    return ::connect(fd, address.ai_addr, address.ai_addrlen) == 0;
  };
  return first_that_works(list.get(), fmt::format("Failed to connect to '{}:{}'", host, port), use);
}

std::string local_path(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  // An abstract name starts with a zero byte: no path either.
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) < 0) return {};
  if (address.sun_family != AF_UNIX) return {};
  return {address.sun_path, ::strnlen(address.sun_path, sizeof address.sun_path)};
}

std::string local_address(int fd) { return address_text(fd, &::getsockname); }
std::string peer_address(int fd) { return address_text(fd, &::getpeername); }

}  // namespace rhea::vmm
