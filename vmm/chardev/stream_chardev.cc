#include "vmm/chardev/stream_chardev.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "util/bql.h"
#include "util/log.h"
#include "vmm/chardev/receive_with_fds.h"

namespace rhea::vmm {

namespace {

constexpr size_t kReadBytes = 4096;  // per turn: other descriptors want theirs

bool is_transient(int error) { return error == EAGAIN || error == EINTR; }

bool is_socket(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

StreamChardev::StreamChardev(std::string label, AioContext& context)
    : Chardev(std::move(label)),
      context_(context),
      update_(context, [this] { update_watches(); }),
      read_always_ready_(context, [this] { read_some(); }) {}

StreamChardev::~StreamChardev() {
  // The last words, as far as they are taken at once: the answer to `quit` is among them.
  if (output_ && !pending_.empty()) write_now(pending_);
}

void StreamChardev::open_stream(Fd input, Fd output) {
  input_ = std::move(input);
  output_ = std::move(output);
  input_passes_fds_ = passes_fds(input_.get());
  output_is_socket_ = is_socket(output_.get());
  output_broken_ = closing_ = false;
  set_peer_present(true);
  update_watches();
}

void StreamChardev::close_stream() {
  close_input();
  close_output();
  update_.cancel();
  set_peer_present(false);
  release_frontend();
}

void StreamChardev::close_when_written() {
  close_input();
  closing_ = !pending_.empty() && !output_broken_;
  if (!closing_) close_stream();
}

void StreamChardev::close_input() {
  input_watch_ = {};
  input_.reset();
  read_always_ready_.cancel();
}

void StreamChardev::close_output() {
  output_watch_ = {};
  if (output_ && !pending_.empty() && !output_broken_) write_now(pending_);
  pending_ = {};
  output_.reset();
  output_broken_ = false;
}

/// Who waits for room has it when nobody is left to read: everything is taken then.
void StreamChardev::release_frontend() {
  if (std::exchange(frontend_waits_, false) && frontend() != nullptr) frontend()->can_write();
}

void StreamChardev::frontend_changed() { update_watches(); }

size_t StreamChardev::write(std::span<const std::byte> data) {
  bql.assert_held();
  if (!output_ || output_broken_) return data.size();
  size_t taken = pending_.empty() ? write_now(data) : 0;
  const auto rest = data.subspan(taken);
  const auto kept = rest.first(std::min(rest.size(), kOutputBytes - pending_.size()));
  pending_.insert(pending_.end(), kept.begin(), kept.end());
  taken += kept.size();
  frontend_waits_ |= taken < data.size();
  if (!pending_.empty() || output_broken_) update_.schedule();
  return taken;
}

/// How much the descriptor took; everything, if it is broken.
size_t StreamChardev::write_now(std::span<const std::byte> data) {
  size_t done = 0;
  while (done < data.size()) {
    const auto rest = data.subspan(done);
    const ssize_t n = output_is_socket_ ? ::send(output_.get(), rest.data(), rest.size(),
                                                 MSG_NOSIGNAL | MSG_DONTWAIT)
                                        : ::write(output_.get(), rest.data(), rest.size());
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      if (is_transient(errno)) break;
      RHEA_LOG(kVmm, kDebug, "chardev {}: output ends: errno {}", label(), errno);
      output_broken_ = true;  // for update_watches(): the frontend is not called from here
      return data.size();
    }
  }
  return done;
}

void StreamChardev::accept_input() {
  bql.assert_held();
  update_.schedule();
}

void StreamChardev::update_watches() {
  bql.assert_held();
  if (output_broken_ || (closing_ && pending_.empty())) {
    closing_ = false;
    output_ended();
    release_frontend();
    return;
  }
  watch_input();
  watch_output();
}

void StreamChardev::watch_input() {
  const bool wanted = input_ && frontend() != nullptr && frontend()->can_receive() > 0;
  if (wanted == static_cast<bool>(input_watch_)) return;
  if (!wanted) {
    input_watch_ = {};
    return;
  }
  auto watch = context_.watch(input_.get(), FdEvents::kRead, [this](FdEvents) { read_some(); });
  if (watch.has_value()) {
    input_watch_ = *std::move(watch);
  } else {
    read_always_ready_.schedule();
  }
}

void StreamChardev::watch_output() {
  const bool wanted = output_ && !pending_.empty();
  if (wanted == static_cast<bool>(output_watch_)) return;
  if (!wanted) {
    output_watch_ = {};
    return;
  }
  auto watch = context_.watch(output_.get(), FdEvents::kWrite, [this](FdEvents) { flush(); });
  if (watch.has_value()) {
    output_watch_ = *std::move(watch);
  } else {
    output_broken_ = true;
    update_.schedule();
  }
}

void StreamChardev::read_some() {
  bql.assert_held();
  if (!input_ || frontend() == nullptr) return;
  std::array<std::byte, kReadBytes> buffer;
  const size_t room = std::min(frontend()->can_receive(), buffer.size());
  if (room > 0) {
    const auto space = std::span(buffer).first(room);
    Received got = input_passes_fds_
                       ? receive_with_fds(input_.get(), space)
                       : Received{.bytes = ::read(input_.get(), space.data(), space.size())};
    if (got.bytes == 0 || (got.bytes < 0 && !is_transient(errno))) return input_ended();
    if (!got.fds.empty()) frontend()->receive_fds(std::move(got.fds));
    if (got.bytes > 0) frontend()->receive(space.first(static_cast<size_t>(got.bytes)));
  }
  update_watches();
}

void StreamChardev::flush() {
  bql.assert_held();
  const size_t taken = write_now(pending_);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(taken));
  update_watches();
  if (frontend_waits_ && pending_.size() <= kOutputBytes / 2 && frontend() != nullptr) {
    frontend_waits_ = false;
    frontend()->can_write();
  }
}

}  // namespace rhea::vmm
