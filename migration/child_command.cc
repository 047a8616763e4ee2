#include "migration/child_command.h"

#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

extern char** environ;

namespace rhea::migration {
namespace {

/// posix_spawn's two arguments, released with the scope.
struct SpawnPlan {
  SpawnPlan() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

/// Our threads block every signal and ignore SIGPIPE; a shell's pipeline needs neither.
void set_attributes(posix_spawnattr_t& attributes) {
  sigset_t none;
  sigemptyset(&none);
  sigset_t restored;
  sigemptyset(&restored);
  sigaddset(&restored, SIGPIPE);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &restored);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

}  // namespace

Result<ChildCommand::Started> ChildCommand::start(const std::string& command, Role role) {
  Pipe pipe = TRY(make_pipe());
  const bool reads = role == Role::kReadsStream;
  Fd& theirs = reads ? pipe.read : pipe.write;
  Fd& ours = reads ? pipe.write : pipe.read;

  SpawnPlan plan;
  set_attributes(plan.attributes);
  ::posix_spawn_file_actions_adddup2(&plan.actions, theirs.get(),
                                     reads ? STDIN_FILENO : STDOUT_FILENO);
  std::string shell = "sh";
  std::string option = "-c";
  std::string text = command;
  char* const arguments[] = {shell.data(), option.data(), text.data(), nullptr};
  pid_t pid = -1;
  const int failure =
      ::posix_spawn(&pid, "/bin/sh", &plan.actions, &plan.attributes, arguments, environ);
  if (failure != 0) return fail_errno(failure, "cannot run '{}'", command);
  return Started{std::unique_ptr<ChildCommand>(new ChildCommand(command, pid)), std::move(ours)};
}

ChildCommand::~ChildCommand() {
  if (pid_ < 0) return;
  ::kill(-pid_, SIGKILL);
  reap();
}

int ChildCommand::reap() noexcept {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

Result<void> ChildCommand::wait(const Cancel& cancel) {
  RHEA_CHECK(pid_ > 0, "a command is waited for once");
  const Fd ended(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!ended) return fail_errno(errno, "cannot wait for '{}'", command_);
  pollfd waits[] = {{.fd = ended.get(), .events = POLLIN, .revents = 0},
                    {.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
  while (::poll(waits, 2, -1) < 0) {
    if (errno != EINTR) return fail_errno(errno, "cannot wait for '{}'", command_);
  }
  if (waits[0].revents == 0) {
    ::kill(-pid_, SIGKILL);
    reap();
    return fail(ErrorKind::kCancelled, "waiting for '{}': cancelled", command_);
  }
  const int status = reap();
  if (WIFSIGNALED(status)) {
    return fail(ErrorKind::kIo, "'{}' was killed by signal {}", command_, WTERMSIG(status));
  }
  if (WEXITSTATUS(status) != 0) {
    return fail(ErrorKind::kIo, "'{}' failed with status {}", command_, WEXITSTATUS(status));
  }
  return ok();
}

}  // namespace rhea::migration
