#include "migration/connect.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <utility>

#include "migration/internal/socket.h"
#include "util/parse.h"

namespace rhea::migration {
namespace {

bool starts_with_digit(const std::string& text) {
  return !text.empty() && text.front() >= '0' && text.front() <= '9';
}

/// The descriptor behind fd:NAME (passed by a client) or fd:NUMBER (inherited).
Result<Fd> fd_of(const Address& address, const TakeFd& take_fd) {
  if (!starts_with_digit(address.target)) {
    if (!take_fd) {
      return fail(ErrorKind::kNotFound, "File descriptor named '{}' has not been found",
                  address.target);
    }
    return take_fd(address.target);
  }
  const auto number = parse_uint(address.target);
  if (!number || *number > std::numeric_limits<int>::max()) {
    return fail(ErrorKind::kInvalidArgument, "Invalid file descriptor number '{}'", address.target);
  }
  const int fd = static_cast<int>(*number);
  if (::fcntl(fd, F_GETFD) < 0) return fail_errno(errno, "file descriptor {}", fd);
  return Fd(fd);
}

Result<Fd> open_file(const Address& address, int flags) {
  Fd fd(::open(address.target.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd) return fail_errno(errno, "Failed to open '{}'", address.target);
  const auto offset = static_cast<off_t>(address.offset_bytes);
  // What lies before the offset is somebody else's and stays; what lies behind would follow our
  // stream, so it goes.
  if ((flags & O_ACCMODE) == O_WRONLY && ::ftruncate(fd.get(), offset) != 0 && errno != EINVAL) {
    return fail_errno(errno, "Failed to truncate '{}' to {} bytes", address.target, offset);
  }
  if (offset != 0 && ::lseek(fd.get(), offset, SEEK_SET) < 0) {
    return fail_errno(errno, "Failed to seek to byte {} of '{}'", offset, address.target);
  }
  return fd;
}

enum class Direction : uint8_t { kOutgoing, kIncoming };

Result<std::unique_ptr<Channel>> open_channel(const Address& address, Direction direction,
                                              std::shared_ptr<Cancel> cancel,
                                              const TakeFd& take_fd) {
  const bool outgoing = direction == Direction::kOutgoing;
  switch (address.kind) {
    case Address::Kind::kTcp:
    case Address::Kind::kUnix: {
      RHEA_CHECK(outgoing, "sockets are listened on");
      Fd fd = TRY(internal::connect_socket(address, *cancel));
      return Channel::create(std::move(fd), std::move(cancel));
    }
    case Address::Kind::kFd: {
      Fd fd = TRY(fd_of(address, take_fd));
      return Channel::create(std::move(fd), std::move(cancel));
    }
    case Address::Kind::kExec: {
      auto started =
          TRY(ChildCommand::start(address.target, outgoing ? ChildCommand::Role::kReadsStream
                                                           : ChildCommand::Role::kWritesStream));
      return Channel::create(std::move(started.stream), std::move(cancel),
                             std::move(started.child));
    }
    case Address::Kind::kFile: {
      Fd fd = TRY(open_file(address, outgoing ? O_WRONLY | O_CREAT : O_RDONLY));
      return Channel::create(std::move(fd), std::move(cancel));
    }
  }
  RHEA_UNREACHABLE();
}

}  // namespace

Result<std::unique_ptr<Channel>> connect_to(const Address& address, std::shared_ptr<Cancel> cancel,
                                            const TakeFd& take_fd) {
  return open_channel(address, Direction::kOutgoing, std::move(cancel), take_fd);
}

Result<std::unique_ptr<Channel>> receive_from(const Address& address,
                                              std::shared_ptr<Cancel> cancel,
                                              const TakeFd& take_fd) {
  return open_channel(address, Direction::kIncoming, std::move(cancel), take_fd);
}

Result<std::unique_ptr<Listener>> Listener::create(const Address& address) {
  if (!address.takes_connections()) {
    return fail(ErrorKind::kInvalidArgument, "'{}' can not be listened on", address.text());
  }
  auto socket = TRY(internal::listen_socket(address));
  return std::unique_ptr<Listener>(new Listener(std::move(socket.fd), std::move(socket.address)));
}

Listener::~Listener() {
  if (address_.kind == Address::Kind::kUnix) ::unlink(address_.target.c_str());
}

Result<std::unique_ptr<Channel>> Listener::accept(std::shared_ptr<Cancel> cancel) {
  Fd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd) {
    internal::set_no_delay(fd.get());
    return Channel::create(std::move(fd), std::move(cancel));
  }
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
    return std::unique_ptr<Channel>();
  }
  return fail_errno(errno, "Failed to accept a connection on '{}'", address_.text());
}

}  // namespace rhea::migration
