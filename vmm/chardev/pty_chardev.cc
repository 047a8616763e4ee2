#include "vmm/chardev/pty_chardev.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "util/bql.h"

namespace rhea::vmm {

namespace {

struct Pty {
  Fd master;
  std::string path;
};

Result<Pty> open_pty() {
  Pty pty{Fd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)), {}};
  std::array<char, 64> path{};
  if (!pty.master || ::grantpt(pty.master.get()) < 0 || ::unlockpt(pty.master.get()) < 0 ||
      ::ptsname_r(pty.master.get(), path.data(), path.size()) != 0) {
    return fail_errno(errno, "cannot make a pseudo-terminal");
  }
  pty.path = path.data();
  // Open and close it once: from here on the master shows a hang-up while nobody has it open.
  Fd slave(::open(pty.path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios modes{};
  if (!slave || ::tcgetattr(slave.get(), &modes) < 0) {
    return fail_errno(errno, "cannot open '{}'", pty.path);
  }
  ::cfmakeraw(&modes);
  if (::tcsetattr(slave.get(), TCSAFLUSH, &modes) < 0) return fail_errno(errno, "{}", pty.path);
  return pty;
}

bool is_open_elsewhere(int master) {
  pollfd state{.fd = master, .events = 0, .revents = 0};
  return ::poll(&state, 1, 0) >= 0 && (state.revents & POLLHUP) == 0;
}

Result<Fd> copy_of(const Fd& fd) {
  Fd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy) return fail_errno(errno, "cannot copy descriptor {}", fd.get());
  return copy;
}

}  // namespace

PtyChardev::PtyChardev(std::string label, AioContext& context, std::string path, Fd master,
                       Fd inotify)
    : StreamChardev(std::move(label), context),
      path_(std::move(path)),
      master_(std::move(master)),
      inotify_(std::move(inotify)) {}

Result<std::unique_ptr<PtyChardev>> PtyChardev::create(const ChardevConfig& config,
                                                       AioContext& context) {
  Pty pty = TRY(open_pty());
  Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify || ::inotify_add_watch(inotify.get(), pty.path.c_str(), IN_OPEN) < 0) {
    return fail_errno(errno, "cannot watch '{}'", pty.path);
  }
  std::unique_ptr<PtyChardev> chardev(new PtyChardev(config.id, context, std::move(pty.path),
                                                     std::move(pty.master), std::move(inotify)));
  TRY(chardev->start());
  std::printf("char device redirected to %s (label %s)\n", chardev->path_.c_str(),
              config.id.c_str());
  std::fflush(stdout);
  return chardev;
}

Result<void> PtyChardev::start() {
  inotify_watch_ = TRY(
      context().watch(inotify_.get(), FdEvents::kRead, [this](FdEvents) { somebody_opened(); }));
  return ok();
}

void PtyChardev::somebody_opened() {
  bql.assert_held();
  alignas(inotify_event) std::array<std::byte, 1024> events;
  while (::read(inotify_.get(), events.data(), events.size()) > 0) {
  }
  // Gone again perhaps, or one more beside the first.
  if (peer_present() || !is_open_elsewhere(master_.get())) return;
  auto input = copy_of(master_);
  auto output = copy_of(master_);
  if (!input.has_value() || !output.has_value()) return;  // out of descriptors: dropped, as before
  open_stream(*std::move(input), *std::move(output));
}

}  // namespace rhea::vmm
