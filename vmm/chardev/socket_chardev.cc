#include "vmm/chardev/socket_chardev.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>

#include "util/bql.h"
#include "util/log.h"

namespace rhea::vmm {

namespace {

using Type = ChardevConfig::Type;

constexpr auto kRetryAfter = std::chrono::seconds(1);

/// An inherited descriptor: a stream socket, listening or not as it should be.
Result<Fd> inherited_socket(int number, bool should_listen) {
  int type = 0, listens = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(number, SOL_SOCKET, SO_TYPE, &type, &length) < 0) {
    if (errno == ENOTSOCK) {
      return fail(ErrorKind::kInvalidArgument, "File descriptor '{}' is not a socket", number);
    }
    return fail_errno(errno, "cannot use file descriptor '{}'", number);
  }
  length = sizeof listens;
  ::getsockopt(number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length);
  if (type != SOCK_STREAM || (listens != 0) != should_listen) {
    return fail(ErrorKind::kInvalidArgument, "File descriptor '{}' is no {} stream socket", number,
                should_listen ? "listening" : "connected");
  }
  if (::fcntl(number, F_SETFD, FD_CLOEXEC) < 0) {
    return fail_errno(errno, "cannot use file descriptor '{}'", number);
  }
  return Fd(number);
}

Result<Fd> accept_from(const Fd& listener) {
  Fd peer(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!peer) return fail_errno(errno, "accept");
  return peer;
}

}  // namespace

SocketChardev::SocketChardev(const ChardevConfig& config, AioContext& context)
    : StreamChardev(config.id, context),
      config_(config),
      retry_(context.timers(), [this] { listen_again(); }) {}

Result<std::unique_ptr<SocketChardev>> SocketChardev::create(const ChardevConfig& config,
                                                             AioContext& context) {
  std::unique_ptr<SocketChardev> chardev(new SocketChardev(config, context));
  TRY(chardev->open());
  return chardev;
}

Result<void> SocketChardev::open() {
  if (!config_.server) return open_client();
  TRY(open_listener());
  if (config_.wait) TRY(wait_for_peer());
  TRY(set_nonblocking(listener_.get(), true));
  listen_again();
  return ok();
}

Result<void> SocketChardev::open_listener() {
  if (config_.fd) {
    listener_ = TRY(inherited_socket(*config_.fd, config_.server));
  } else if (config_.type == Type::kTcpSocket) {
    listener_ = TRY(listen_tcp(config_.host, config_.port));
  } else {
    UnixListener listener = TRY(listen_unix(config_.path));
    listener_ = std::move(listener.fd);
    file_ = std::move(listener.file);
  }
  return ok();
}

Result<void> SocketChardev::open_client() {
  if (config_.fd) return take_peer(TRY(inherited_socket(*config_.fd, config_.server)));
  if (config_.type == Type::kTcpSocket)
    return take_peer(TRY(connect_tcp(config_.host, config_.port)));
  return take_peer(TRY(connect_unix(config_.path)));
}

/// Blocks: nothing runs yet that could be kept waiting, and Ctrl-C still ends the process.
Result<void> SocketChardev::wait_for_peer() {
  std::fprintf(stderr, "rhea: info: waiting for connection on: %s\n", description().c_str());
  TRY(set_nonblocking(listener_.get(), false));
  for (;;) {
    auto peer = accept_from(listener_);
    if (peer.has_value()) return take_peer(*std::move(peer));
    const int error = peer.error().os_errno();
    if (error != EINTR && error != ECONNABORTED) return std::move(peer).error();
  }
}

Result<void> SocketChardev::take_peer(Fd peer) {
  TRY(set_nonblocking(peer.get(), true));
  if (config_.type == Type::kTcpSocket) {
    const int on = 1;  // fails where it makes no sense, which is no matter
    ::setsockopt(peer.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  // Two descriptors, for reading and writing are watched apart from each other.
  Fd output(::fcntl(peer.get(), F_DUPFD_CLOEXEC, 3));
  if (!output) return fail_errno(errno, "cannot copy descriptor {}", peer.get());
  open_stream(std::move(peer), std::move(output));
  return ok();
}

void SocketChardev::listen_again() {
  if (listener_watch_ || !listener_) return;
  auto watch =
      context().watch(listener_.get(), FdEvents::kRead, [this](FdEvents) { somebody_connects(); });
  if (watch.has_value()) {
    listener_watch_ = *std::move(watch);
  } else {
    retry_.arm_after(kRetryAfter);
  }
}

void SocketChardev::somebody_connects() {
  bql.assert_held();
  if (peer_present() && !peer_hung_up()) {
    // Must wait for its turn, and would make the listener ready for ever.
    listener_watch_ = {};
    retry_.arm_after(kRetryAfter);
    return;
  }
  if (peer_present()) close_stream();
  auto peer = accept_from(listener_);
  auto taken = peer.has_value() ? take_peer(*std::move(peer)) : Result<void>(peer.error());
  if (taken.has_value()) return;
  const int error = taken.error().os_errno();
  if (error == EAGAIN || error == EINTR || error == ECONNABORTED) return;
  RHEA_LOG(kVmm, kWarn, "chardev {}: {}", label(), taken.error().message());
  listener_watch_ = {};
  retry_.arm_after(kRetryAfter);
}

bool SocketChardev::peer_hung_up() const {
  pollfd state{.fd = input_fd(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&state, 1, 0) > 0 && state.revents != 0;
}

void SocketChardev::input_ended() {
  // `printf COMMANDS | nc -N -U PATH` is still there for the answers.
  close_when_written();
  if (!peer_present()) listen_again();
}

void SocketChardev::output_ended() {
  close_stream();
  listen_again();
}

std::string SocketChardev::description() const {
  const std::string_view disconnected = peer_present() ? "" : "disconnected:";
  const std::string_view server = config_.server ? ",server=on" : "";
  const int own = listener_ ? listener_.get() : input_fd();
  const std::string address = own >= 0 ? local_address(own) : "";
  if (address.empty()) {
    const std::string path = config_.fd && own >= 0 ? local_path(own) : config_.path;
    return fmt::format("{}unix:{}{}", disconnected, path, server);
  }
  const std::string peer = peer_present() ? " <-> " + peer_address(input_fd()) : "";
  return fmt::format("{}tcp:{}{}{}", disconnected, address, server, peer);
}

}  // namespace rhea::vmm
