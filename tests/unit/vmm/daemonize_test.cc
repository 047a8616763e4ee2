#include "vmm/daemonize.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>

#include "tests/support/death.h"
#include "tests/support/sanitizer.h"
#include "util/fd.h"

using namespace rhea;
using namespace rhea::vmm;

namespace {

constexpr int kPatience = 20000;  // ms; only a failing test waits so long

Fd pidfd_of(pid_t pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

bool readable_within(int fd, int milliseconds) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, milliseconds) == 1;
}

std::string read_to_end(const Fd& fd) {
  std::string text;
  char buffer[256];
  while (readable_within(fd.get(), kPatience)) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof(buffer));
    if (got <= 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text + " (no end within the time-out)";
}

/// A process of its own that calls daemonize(): its parent half exits with what it was told, its
/// child half runs `body`. `report` collects what either writes there, and ends with both.
struct Starter {
  Pipe report;
  Pipe go;  // the child half may wait for its end
  pid_t pid = -1;

  using Body = std::function<void(Starter&, ReadyNotifier)>;

  explicit Starter(const Body& body) : report(MUST(make_pipe())), go(MUST(make_pipe())) {
    std::fflush(nullptr);  // daemonize() flushes: the runner's text must not come out twice
    pid = ::fork();
    if (pid != 0) {
      report.write.reset();
      go.read.reset();
      return;
    }
    report.read.reset();
    go.write.reset();
    auto role = MUST(daemonize());
    if (const auto* parent = std::get_if<ParentExit>(&role)) {
      say(parent->message);
      ::_exit(parent->status);
    }
    body(*this, std::get<ReadyNotifier>(std::move(role)));
    ::_exit(0);
  }

  void say(std::string_view text) { (void)write_all(report.write.get(), text); }
  void wait_for_go() {
    char byte = 0;
    (void)!::read(go.read.get(), &byte, 1);
  }
  /// Lets the child half go on.
  void let_go() { go.write.reset(); }

  int exit_status() {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
};

bool is_dev_null(int fd) {
  struct stat file{};
  return ::fstat(fd, &file) == 0 && S_ISCHR(file.st_mode) && file.st_rdev == makedev(1, 3);
}

}  // namespace

TEST_CASE("daemonize: the parent exits 0 only when the child is ready", "[daemonize]") {
  Starter starter([](Starter& self, ReadyNotifier notifier) {
    self.wait_for_go();
    self.say(notifier.notify().has_value() ? "told" : "not told");
  });
  const Fd pidfd = pidfd_of(starter.pid);
  REQUIRE_FALSE(readable_within(pidfd.get(), 100));
  starter.let_go();
  CHECK(starter.exit_status() == 0);
  CHECK(read_to_end(starter.report.read) == "told");
}

TEST_CASE("daemonize: the child leads its own session and reads and writes nothing",
          "[daemonize]") {
  Starter starter([](Starter& self, ReadyNotifier notifier) {
    if (::getsid(0) == ::getpid()) self.say("session ");
    if (!is_dev_null(STDERR_FILENO)) self.say("stderr-kept ");
    (void)notifier.notify();
    for (const int fd : {0, 1, 2}) self.say(is_dev_null(fd) ? "null " : "open ");
  });
  CHECK(starter.exit_status() == 0);
  CHECK(read_to_end(starter.report.read) == "session stderr-kept null null null ");
}

TEST_CASE("daemonize: a starter that reads our stderr to its end is not kept waiting",
          "[daemonize]") {
  Pipe err = MUST(make_pipe());
  const Fd saved(::dup(STDERR_FILENO));
  ::dup2(err.write.get(), STDERR_FILENO);
  Starter starter([&](Starter& self, ReadyNotifier notifier) {
    err.write.reset();  // fd 2 is the only one left
    (void)write_all(STDERR_FILENO, std::string_view("early"));
    (void)notifier.notify();
    (void)write_all(STDERR_FILENO, std::string_view("late"));
    self.wait_for_go();  // alive until the test has seen the end
  });
  ::dup2(saved.get(), STDERR_FILENO);
  err.write.reset();
  CHECK(read_to_end(err.read) == "early");
  starter.let_go();
  CHECK(starter.exit_status() == 0);
}

TEST_CASE("daemonize: the parent passes on why the start failed", "[daemonize]") {
  Starter starter([](Starter& self, ReadyNotifier notifier) {
    const bool first = notifier.fail("-kernel x: no such file");
    const bool second = notifier.fail("again") || !notifier.notify().has_value();
    self.wait_for_go();
    self.say(first && !second ? " once" : " wrong");
  });
  CHECK(starter.exit_status() == 1);
  starter.let_go();
  CHECK(read_to_end(starter.report.read) == "-kernel x: no such file once");
}

TEST_CASE("daemonize: a child that dies unheard is reported by how it died", "[daemonize]") {
  Starter exits([](Starter&, ReadyNotifier) { ::_exit(3); });
  CHECK(exits.exit_status() == 1);
  CHECK(read_to_end(exits.report.read) ==
        "-daemonize: the background process ended with status 3 before it was ready");

  Starter killed([](Starter&, ReadyNotifier) { ::kill(::getpid(), SIGKILL); });
  CHECK(killed.exit_status() == 1);
  CHECK(read_to_end(killed.report.read) ==
        "-daemonize: the background process was killed by signal 9");
}

TEST_CASE("daemonize: a child whose parent was killed gets an error, not SIGPIPE", "[daemonize]") {
  Starter starter([](Starter& self, ReadyNotifier notifier) {
    std::signal(SIGPIPE, SIG_DFL);  // whoever runs the tests may ignore it
    const pid_t parent = ::getppid();
    const Fd pidfd = pidfd_of(parent);
    ::kill(parent, SIGKILL);
    if (!readable_within(pidfd.get(), kPatience)) self.say("parent lives ");
    const auto told = notifier.notify();
    self.say(told ? "told" : told.error().message());
  });
  CHECK(starter.exit_status() == 128 + SIGKILL);
  CHECK(read_to_end(starter.report.read) ==
        "-daemonize: the starting process is gone: Broken pipe");
}

TEST_CASE("ReadyNotifier: in the foreground there is nobody to tell", "[daemonize]") {
  ReadyNotifier notifier;
  CHECK(notifier.notify().has_value());
  CHECK_FALSE(notifier.fail("x"));
  CHECK_FALSE(is_dev_null(STDERR_FILENO));
}

#ifndef RHEA_TEST_TSAN
TEST_CASE("daemonize: with a second thread running it aborts", "[daemonize]") {
  CHECK(test::dies([] {
    std::thread([] { ::pause(); }).detach();
    (void)daemonize();
  }));
}
#endif
