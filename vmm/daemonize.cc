#include "vmm/daemonize.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>

namespace rhea::vmm {
namespace {

// One message per child: 'R', or 'E' and a text; the end of the stream ends it.
constexpr char kReady = 'R';
constexpr char kFailed = 'E';

/// A socket, not a pipe: MSG_NOSIGNAL spares us SIGPIPE if the parent was killed.
Result<void> send_all(int channel, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(channel, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return fail_errno(errno, "-daemonize: the starting process is gone");
    text.remove_prefix(static_cast<size_t>(sent));
  }
  return ok();
}

std::string receive_all(int channel) {
  std::string text;
  std::array<char, 512> buffer;
  while (true) {
    const ssize_t got = ::recv(channel, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
}

Result<void> let_go_of_terminal() {
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return fail_errno(errno, "-daemonize: cannot open '/dev/null'");
  std::fflush(nullptr);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::dup2(null.get(), fd) < 0) return fail_errno(errno, "-daemonize: cannot redirect");
  }
  return ok();
}

/// How a child ended that never spoke.
std::string describe_end(pid_t child) {
  int status = 0;
  pid_t waited = 0;
  do {
    waited = ::waitpid(child, &status, 0);
  } while (waited < 0 && errno == EINTR);
  if (waited != child) return "-daemonize: the background process is gone";
  if (WIFSIGNALED(status)) {
    return fmt::format("-daemonize: the background process was killed by signal {}",
                       WTERMSIG(status));
  }
  return fmt::format("-daemonize: the background process ended with status {} before it was ready",
                     WEXITSTATUS(status));
}

ParentExit wait_for_child(const Fd& channel, pid_t child) {
  const std::string said = receive_all(channel.get());
  if (said.starts_with(kReady)) return {0, ""};
  if (said.starts_with(kFailed)) return {1, said.substr(1)};
  return {1, describe_end(child)};
}

/// A directory's link count is 2 and one for each directory in it, here one per thread.
void check_single_threaded() {
#if defined(__SANITIZE_THREAD__)
  constexpr bool kToolThreads = true;
#elif defined(__has_feature)
  constexpr bool kToolThreads = __has_feature(thread_sanitizer);
#else
  constexpr bool kToolThreads = false;
#endif
  struct stat tasks{};
  if (kToolThreads || ::stat("/proc/self/task", &tasks) != 0) return;
  RHEA_CHECK(tasks.st_nlink == 3, "fork with {} threads", tasks.st_nlink - 2);
}

}  // namespace

Result<void> ReadyNotifier::notify() {
  if (!channel_) return ok();
  TRY(let_go_of_terminal());
  const Fd channel = std::move(channel_);
  return send_all(channel.get(), std::string_view(&kReady, 1));
}

bool ReadyNotifier::fail(std::string_view message) noexcept {
  if (!channel_) return false;
  const Fd channel = std::move(channel_);
  return send_all(channel.get(), kFailed + std::string(message)).has_value();
}

Result<std::variant<ReadyNotifier, ParentExit>> daemonize() {
  using Role = std::variant<ReadyNotifier, ParentExit>;
  check_single_threaded();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno(errno, "-daemonize: cannot make a channel");
  }
  Fd parent_end(ends[0]);
  Fd child_end(ends[1]);
  std::fflush(nullptr);  // or what is buffered would be written twice
  const pid_t child = ::fork();
  if (child < 0) return fail_errno(errno, "-daemonize: cannot fork");
  if (child > 0) {
    child_end.reset();
    return Role(wait_for_child(parent_end, child));
  }
  parent_end.reset();
  ::setsid();  // can not fail: a process just forked leads no group
  return Role(ReadyNotifier(std::move(child_end)));
}

}  // namespace rhea::vmm
