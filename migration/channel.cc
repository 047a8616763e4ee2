#include "migration/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace rhea::migration {
namespace {

// Under a limit nothing larger goes out at once, so that a change or a cancel finds little on its
// way and several channels share the rate evenly.
constexpr size_t kLimitedPieceBytes = 256 << 10;

std::byte* at(const iovec& part) { return static_cast<std::byte*>(part.iov_base); }

/// Takes `bytes` off the front.
std::span<iovec> skip_bytes(std::span<iovec> parts, size_t bytes) {
  while (!parts.empty() && bytes >= parts.front().iov_len) {
    bytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (bytes != 0) {
    parts.front().iov_base = at(parts.front()) + bytes;
    parts.front().iov_len -= bytes;
  }
  return parts;
}

/// Parts from the front with at most `bytes` in total; none if the first has more already.
std::span<const iovec> prefix(std::span<const iovec> parts, size_t bytes) {
  size_t count = 0;
  while (count < parts.size() && parts[count].iov_len <= bytes) bytes -= parts[count++].iov_len;
  return parts.first(count);
}

size_t total_bytes(std::span<const iovec> parts) {
  size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

bool would_block(int os_errno) { return os_errno == EAGAIN; }

}  // namespace

Result<Channel::Kind> Channel::kind_of(int fd, bool has_child) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return fail_errno(errno, "file descriptor {}", fd);
  if (has_child) return Kind::kCommand;
  if (S_ISSOCK(info.st_mode)) return Kind::kSocket;
  if (S_ISFIFO(info.st_mode)) return Kind::kPipe;
  return Kind::kFile;
}

Result<std::unique_ptr<Channel>> Channel::create(Fd fd, std::shared_ptr<Cancel> cancel,
                                                 std::unique_ptr<ChildCommand> child) {
  const Kind kind = TRY(kind_of(fd.get(), child != nullptr));
  TRY(set_nonblocking(fd.get(), true));
  return std::unique_ptr<Channel>(
      new Channel(std::move(fd), kind, std::move(cancel), std::move(child)));
}

Channel::Channel(Fd fd, Kind kind, std::shared_ptr<Cancel> cancel,
                 std::unique_ptr<ChildCommand> child)
    : fd_(std::move(fd)), kind_(kind), cancel_(std::move(cancel)), child_(std::move(child)) {}

Channel::~Channel() {
  if (limit_ != nullptr) limit_->remove_waker(limit_changed_.get());
}

const char* Channel::kind_name() const noexcept {
  switch (kind_) {
    case Kind::kSocket:
      return "socket";
    case Kind::kPipe:
      return "pipe";
    case Kind::kFile:
      return "file";
    case Kind::kCommand:
      return "command";
  }
  RHEA_UNREACHABLE();
}

Error Channel::io_error(const char* verb, int os_errno) const {
  return fail_errno(os_errno, "Unable to {} {}", verb, kind_name());
}

Error Channel::cancelled_error(const char* verb) const {
  return fail(ErrorKind::kCancelled, "Unable to {} {}: cancelled", verb, kind_name());
}

Result<void> Channel::wait_ready(short events) {
  const char* verb = events == POLLOUT ? "write to" : "read from";
  pollfd waits[] = {{.fd = fd_.get(), .events = events, .revents = 0},
                    {.fd = cancel_->fd(), .events = POLLIN, .revents = 0}};
  while (::poll(waits, 2, -1) < 0) {
    if (errno != EINTR) return io_error(verb, errno);
  }
  if (cancel_->cancelled()) return cancelled_error(verb);
  return ok();
}

Result<void> Channel::wait_allowed() {
  for (;;) {
    // Cleared before the look at the limit: a change between the two is not lost.
    clear_eventfd(limit_changed_.get());
    const Nanoseconds delay = limit_->delay();
    if (delay == Nanoseconds::zero()) return ok();
    pollfd waits[] = {{.fd = limit_changed_.get(), .events = POLLIN, .revents = 0},
                      {.fd = cancel_->fd(), .events = POLLIN, .revents = 0}};
    constexpr int64_t kSecond = 1'000'000'000;
    const timespec timeout{.tv_sec = delay.count() / kSecond, .tv_nsec = delay.count() % kSecond};
    const bool forever = delay == Nanoseconds::max();
    if (::ppoll(waits, 2, forever ? nullptr : &timeout, nullptr) < 0 && errno != EINTR) {
      return io_error("write to", errno);
    }
    if (cancel_->cancelled()) return cancelled_error("write to");
  }
}

Result<size_t> Channel::write_some(std::span<const iovec> parts) {
  parts = parts.first(std::min<size_t>(parts.size(), IOV_MAX));
  iovec piece{};
  if (limit_ != nullptr) {
    TRY(wait_allowed());
    const auto allowed = prefix(parts, kLimitedPieceBytes);
    piece = {.iov_base = parts.front().iov_base, .iov_len = kLimitedPieceBytes};
    parts = allowed.empty() ? std::span<const iovec>(&piece, 1) : allowed;
  }
  for (;;) {
    if (cancel_->cancelled()) return cancelled_error("write to");
    ssize_t n = 0;
    if (kind_ == Kind::kSocket) {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(parts.data());
      message.msg_iovlen = parts.size();
      n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    } else {
      n = ::writev(fd_.get(), parts.data(), static_cast<int>(parts.size()));
    }
    if (n >= 0) {
      const auto bytes = static_cast<size_t>(n);
      if (limit_ != nullptr) limit_->charge(bytes);
      // relaxed: a figure for people
      if (counter_ != nullptr) counter_->fetch_add(bytes, std::memory_order_relaxed);
      return bytes;
    }
    const int os_errno = errno;
    if (cancel_->cancelled()) return cancelled_error("write to");  // as in read_some()
    if (would_block(os_errno)) {
      TRY(wait_ready(POLLOUT));
    } else if (os_errno != EINTR) {
      return io_error("write to", os_errno);
    }
  }
}

Result<void> Channel::write(std::span<iovec> parts) {
  for (parts = skip_bytes(parts, 0); !parts.empty();)
    parts = skip_bytes(parts, TRY(write_some(parts)));
  return ok();
}

Result<void> Channel::write(std::span<const std::byte> data) {
  iovec part{.iov_base = const_cast<std::byte*>(data.data()), .iov_len = data.size()};
  return write(std::span(&part, 1));
}

Result<size_t> Channel::read_some(std::span<const iovec> parts) {
  parts = parts.first(std::min<size_t>(parts.size(), IOV_MAX));
  for (;;) {
    if (cancel_->cancelled()) return cancelled_error("read from");
    const ssize_t n = ::readv(fd_.get(), parts.data(), static_cast<int>(parts.size()));
    if (n > 0) return static_cast<size_t>(n);
    const int os_errno = errno;
    // shutdown() ends the stream as well: between our look at the switch and the call, perhaps.
    if (cancel_->cancelled()) return cancelled_error("read from");
    if (n == 0) return size_t{0};
    if (would_block(os_errno)) {
      TRY(wait_ready(POLLIN));
    } else if (os_errno != EINTR) {
      return io_error("read from", os_errno);
    }
  }
}

Result<size_t> Channel::read_until_ended(std::span<iovec> parts) {
  size_t done = 0;
  for (parts = skip_bytes(parts, 0); !parts.empty();) {
    const size_t bytes = TRY(read_some(parts));
    if (bytes == 0) break;
    done += bytes;
    parts = skip_bytes(parts, bytes);
  }
  return done;
}

Result<void> Channel::read(std::span<iovec> parts) {
  const size_t wanted = total_bytes(parts);
  const size_t done = TRY(read_until_ended(parts));
  if (done == wanted) return ok();
  return fail(ErrorKind::kIo, "Unable to read from {}: the stream ended {} bytes early",
              kind_name(), wanted - done);
}

Result<void> Channel::read(std::span<std::byte> data) {
  iovec part{.iov_base = data.data(), .iov_len = data.size()};
  return read(std::span(&part, 1));
}

Result<bool> Channel::read_unless_ended(std::span<std::byte> data) {
  iovec part{.iov_base = data.data(), .iov_len = data.size()};
  const size_t done = TRY(read_until_ended(std::span(&part, 1)));
  if (done == 0 && !data.empty()) return false;
  if (done == data.size()) return true;
  return fail(ErrorKind::kIo, "Unable to read from {}: the stream ended {} bytes early",
              kind_name(), data.size() - done);
}

Result<void> Channel::wait_for(int fd) {
  pollfd waits[] = {{.fd = fd, .events = POLLIN, .revents = 0},
                    {.fd = cancel_->fd(), .events = POLLIN, .revents = 0},
                    {.fd = fd_.get(), .events = POLLRDHUP, .revents = 0}};
  while (::poll(waits, 3, -1) < 0) {
    if (errno != EINTR) return io_error("read from", errno);
  }
  if (cancel_->cancelled()) return cancelled_error("read from");
  if (waits[0].revents != 0) return ok();
  return fail(ErrorKind::kIo, "Unable to read from {}: the peer has hung up", kind_name());
}

Result<std::unique_ptr<Channel>> Channel::reopen(std::shared_ptr<Cancel> cancel) const {
  Fd fd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return io_error("open", errno);
  return create(std::move(fd), std::move(cancel));
}

bool Channel::readable(std::chrono::milliseconds patience) const noexcept {
  pollfd look{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&look, 1, static_cast<int>(patience.count())) > 0;
}

bool Channel::writable(std::chrono::milliseconds patience) const noexcept {
  pollfd waits[] = {{.fd = fd_.get(), .events = POLLOUT, .revents = 0},
                    {.fd = cancel_->fd(), .events = POLLIN, .revents = 0}};
  return ::poll(waits, 2, static_cast<int>(patience.count())) > 0 && waits[0].revents == POLLOUT &&
         waits[1].revents == 0;
}

void Channel::shutdown() noexcept {
  cancel_->cancel();
  if (kind_ == Kind::kSocket) ::shutdown(fd_.get(), SHUT_RDWR);
}

Result<void> Channel::finish() {
  if (kind_ == Kind::kFile && ::fsync(fd_.get()) != 0) {
    // A terminal, /dev/null and the like have nothing to sync.
    if (errno != EINVAL && errno != EROFS) return io_error("flush", errno);
  }
  if (child_ == nullptr) return ok();
  fd_.reset();  // the command's end of file
  return child_->wait(*cancel_);
}

Result<void> Channel::limit_by(std::shared_ptr<BandwidthLimit> limit) {
  if (limit_ != nullptr) limit_->remove_waker(limit_changed_.get());
  limit_ = nullptr;
  if (limit == nullptr) return ok();
  if (!limit_changed_) limit_changed_ = TRY(make_eventfd());
  limit->add_waker(limit_changed_.get());
  limit_ = std::move(limit);
  return ok();
}

}  // namespace rhea::migration
