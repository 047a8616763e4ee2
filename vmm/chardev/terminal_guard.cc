#include "vmm/chardev/terminal_guard.h"

#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace rhea::vmm {

namespace {

// Fatal signals, whose default action would leave the terminal raw.
constexpr int kFatal[] = {SIGABRT, SIGBUS,  SIGFPE,  SIGHUP, SIGILL, SIGINT,
                          SIGQUIT, SIGSEGV, SIGTERM, SIGSYS, SIGXCPU};

/// Written before `active` and only while it is false, so a handler that sees `active` sees it all.
struct State {
  std::atomic<bool> active{false};
  int fd = -1;
  termios saved{};
  termios raw{};
  struct sigaction previous[NSIG] = {};
};
static_assert(std::atomic<bool>::is_always_lock_free, "used in signal handlers");
State state;  // see the class: signal handlers reach nothing else

/// Sets the modes, unless the terminal is another job's now. Async-signal-safe.
void set_modes(const termios& modes) {
  const pid_t foreground = ::tcgetpgrp(state.fd);
  if (foreground >= 0 && foreground != ::getpgrp()) return;
  // Not our controlling terminal, or ours: never be stopped for touching it.
  sigset_t block, before;
  ::sigemptyset(&block);
  ::sigaddset(&block, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &block, &before);
  ::tcsetattr(state.fd, TCSANOW, &modes);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void restore() {
  if (state.active.exchange(false)) set_modes(state.saved);
}

void on_fatal(int signal, siginfo_t* info, void*) {
  const int saved_errno = errno;
  restore();
  ::sigaction(signal, &state.previous[signal], nullptr);
  // A fault happens again when we return, with its address; all else must be sent again.
  const bool is_fault = info->si_code > 0 && (signal == SIGSEGV || signal == SIGBUS ||
                                              signal == SIGFPE || signal == SIGILL);
  if (!is_fault) ::raise(signal);
  errno = saved_errno;
}

void on_continue(int) {
  const int saved_errno = errno;
  if (state.active.load()) set_modes(state.raw);
  errno = saved_errno;
}

void install(int signal, void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, nullptr);
}

void on_stop(int signal) {
  const int saved_errno = errno;
  if (state.active.load()) set_modes(state.saved);
  install(signal, SIG_DFL);
  ::raise(signal);
  sigset_t unblock, before;
  ::sigemptyset(&unblock);
  ::sigaddset(&unblock, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &unblock, &before);  // stops here, until SIGCONT
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  install(signal, on_stop);
  errno = saved_errno;
}

bool install_handlers() {
  for (const int signal : kFatal) {
    struct sigaction& previous = state.previous[signal];
    ::sigaction(signal, nullptr, &previous);
    const bool is_default = (previous.sa_flags & SA_SIGINFO) == 0 && previous.sa_handler == SIG_DFL;
    if (!is_default) continue;
    struct sigaction action{};
    action.sa_sigaction = on_fatal;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(signal, &action, nullptr);
  }
  install(SIGTSTP, on_stop);
  install(SIGCONT, on_continue);
  return true;
}

termios raw_modes(const termios& saved, TerminalSignals signals) {
  termios raw = saved;
  raw.c_iflag &=
      ~static_cast<tcflag_t>(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  raw.c_oflag |= OPOST;  // our own messages still end their lines
  raw.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL | ICANON | IEXTEN);
  if (signals == TerminalSignals::kOff) raw.c_lflag &= ~static_cast<tcflag_t>(ISIG);
  raw.c_cflag &= ~static_cast<tcflag_t>(CSIZE | PARENB);
  raw.c_cflag |= CS8;
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  return raw;
}

}  // namespace

Result<TerminalGuard> TerminalGuard::create(int fd, TerminalSignals signals) {
  TerminalGuard guard;
  if (::isatty(fd) == 0) return guard;
  if (state.active.load()) return fail(ErrorKind::kBusy, "the terminal is in use already");
  termios saved;
  if (::tcgetattr(fd, &saved) < 0) return fail_errno(errno, "cannot read the terminal's modes");
  state.fd = fd;
  state.saved = saved;
  state.raw = raw_modes(saved, signals);
  static const int registered = std::atexit(restore);
  if (registered != 0) return fail(ErrorKind::kResource, "atexit has no room");
  state.active = true;
  guard.active_ = true;
  // Once: they stay, and do nothing while no terminal is held.
  [[maybe_unused]] static const bool installed = install_handlers();
  set_modes(state.raw);
  return guard;
}

TerminalGuard::TerminalGuard(TerminalGuard&& other) noexcept
    : active_(std::exchange(other.active_, false)) {}

TerminalGuard& TerminalGuard::operator=(TerminalGuard&& other) noexcept {
  std::swap(active_, other.active_);
  return *this;
}

TerminalGuard::~TerminalGuard() {
  if (active_) restore();
}

}  // namespace rhea::vmm
