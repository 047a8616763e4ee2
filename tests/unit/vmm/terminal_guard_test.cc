#include "vmm/chardev/terminal_guard.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/support/sanitizer.h"
#include "tests/support/watchdog.h"
#include "util/fd.h"

using namespace rhea;
using vmm::TerminalGuard;
using vmm::TerminalSignals;

namespace {

/// A job in the foreground of a terminal of its own, which it holds raw until told to go on. A
/// shell stands between it and us: a job without one can not be stopped from the terminal.
class Job {
 public:
  Job(TerminalSignals signals, const std::function<void()>& end)
      : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    REQUIRE(::grantpt(master_.get()) == 0);
    REQUIRE(::unlockpt(master_.get()) == 0);
    terminal_ = Fd(::open(::ptsname(master_.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    before_ = modes();
    shell_ = ::fork();
    if (shell_ == 0) run_shell(signals, end);
    REQUIRE(::read(statuses_.read.get(), &pid_, sizeof pid_) == sizeof pid_);
    wait_for_word();
  }
  ~Job() {
    ::kill(pid_, SIGKILL);
    ::kill(shell_, SIGKILL);
    ::waitpid(shell_, nullptr, 0);
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  termios modes() const {
    termios modes{};
    ::tcgetattr(terminal_.get(), &modes);
    return modes;
  }
  bool is_restored() const {
    const termios now = modes();
    return now.c_lflag == before_.c_lflag && now.c_iflag == before_.c_iflag &&
           now.c_cc[VMIN] == before_.c_cc[VMIN];
  }
  bool is_raw() const { return (modes().c_lflag & (ICANON | ECHO)) == 0; }

  void wait_for_word() const {
    char word = 0;
    REQUIRE(::read(words_.read.get(), &word, 1) == 1);
  }
  void go_on() const { REQUIRE(::write(orders_.write.get(), "g", 1) == 1); }
  void signal(int number) const { REQUIRE(::kill(pid_, number) == 0); }
  /// Its next stop or its end, as from waitpid.
  int wait() const {
    int status = 0;
    REQUIRE(::read(statuses_.read.get(), &status, sizeof status) == sizeof status);
    return status;
  }

 private:
  [[noreturn]] void run_shell(TerminalSignals signals, const std::function<void()>& end) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    ::ioctl(terminal_.get(), TIOCSCTTY, 0);
    std::signal(SIGHUP, SIG_DFL);
    const pid_t job = ::fork();
    if (job == 0) run_job(signals, end);
    tell(&job, sizeof job);
    int status = 0;
    do {
      ::waitpid(job, &status, WUNTRACED);
      tell(&status, sizeof status);
    } while (WIFSTOPPED(status));
    ::pause();  // the end of the session's leader would hang up the terminal under our eyes
    ::_exit(0);
  }
  [[noreturn]] void run_job(TerminalSignals signals, const std::function<void()>& end) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    // Catch2 and sanitizers have handlers of their own, and a shell starts what it runs in the
    // background with SIGINT and SIGQUIT ignored, which the guard rightly leaves so.
    for (const int number : {SIGABRT, SIGSEGV, SIGTERM, SIGINT, SIGQUIT, SIGTSTP}) {
      std::signal(number, SIG_DFL);
    }
    std::signal(SIGTTOU, SIG_IGN);
    ::setpgid(0, 0);
    ::tcsetpgrp(terminal_.get(), ::getpid());
    std::signal(SIGTTOU, SIG_DFL);
    // Registered before the guard's handler, so it runs after it, and keeps a fork of a test
    // program from tearing down Catch2's reporter, which is in the middle of its report.
    std::atexit([] { ::_exit(3); });
    {
      auto guard = TerminalGuard::create(terminal_.get(), signals);
      if (!guard.has_value() || TerminalGuard::create(terminal_.get(), signals).has_value()) {
        ::_exit(99);
      }
      say_word();
      char order = 0;
      while (::read(orders_.read.get(), &order, 1) < 0 && errno == EINTR) {
      }
      end();
    }
    say_word();
    ::_exit(0);
  }
  void say_word() const {
    if (::write(words_.write.get(), "w", 1) != 1) ::_exit(98);
  }
  void tell(const void* what, size_t size) const {
    if (::write(statuses_.write.get(), what, size) != static_cast<ssize_t>(size)) ::_exit(98);
  }

  test::Watchdog watchdog_{"a terminal's job", std::chrono::seconds(60)};
  Pipe words_ = make_pipe().value(), orders_ = make_pipe().value(), statuses_ = make_pipe().value();
  Fd master_, terminal_;
  termios before_{};
  pid_t shell_ = -1, pid_ = -1;
};

/// A handler that raises its signal again, for the default action, waits for ever under TSan.
bool tsan_holds_signals_back() {
  if (test::kTsan)
    WARN("SKIP: TSan delivers signals late, and a raised one's default action never");
  return test::kTsan;
}

void return_normally() {}
void call_exit() { std::exit(3); }
void crash() { *static_cast<volatile int*>(nullptr) = 0; }

}  // namespace

TEST_CASE("TerminalGuard: the terminal is raw while it is held", "[chardev]") {
  SECTION("Ctrl-C stays a signal") {
    Job job(TerminalSignals::kOn, return_normally);
    CHECK(job.is_raw());
    CHECK((job.modes().c_lflag & ISIG) != 0);
    CHECK((job.modes().c_oflag & OPOST) != 0);
  }
  SECTION("Ctrl-C reaches the guest") {
    Job job(TerminalSignals::kOff, return_normally);
    CHECK((job.modes().c_lflag & ISIG) == 0);
  }
}

TEST_CASE("TerminalGuard: the modes come back however the process ends", "[chardev]") {
  SECTION("the guard goes") {
    Job job(TerminalSignals::kOff, return_normally);
    job.go_on();
    job.wait_for_word();
    CHECK(job.is_restored());
    CHECK(job.wait() == 0);
  }
  SECTION("exit()") {
    Job job(TerminalSignals::kOff, call_exit);
    job.go_on();
    CHECK(WEXITSTATUS(job.wait()) == 3);
    CHECK(job.is_restored());
  }
  SECTION("abort()") {
    Job job(TerminalSignals::kOff, [] { std::abort(); });
    job.go_on();
    CHECK(WTERMSIG(job.wait()) == SIGABRT);
    CHECK(job.is_restored());
  }
  SECTION("a crash") {
    Job job(TerminalSignals::kOff, crash);
    job.go_on();
    CHECK(WIFSIGNALED(job.wait()));
    CHECK(job.is_restored());
  }
  SECTION("a fatal signal") {
    if (tsan_holds_signals_back()) return;
    const int number = GENERATE(SIGTERM, SIGINT, SIGHUP, SIGQUIT);
    Job job(TerminalSignals::kOn, return_normally);
    job.signal(number);
    CHECK(WTERMSIG(job.wait()) == number);
    CHECK(job.is_restored());
  }
}

TEST_CASE("TerminalGuard: the terminal is the shell's while the process is stopped", "[chardev]") {
  if (tsan_holds_signals_back()) return;
  Job job(TerminalSignals::kOn, return_normally);
  job.signal(SIGTSTP);
  CHECK(WIFSTOPPED(job.wait()));
  CHECK(job.is_restored());
  job.signal(SIGCONT);
  job.go_on();
  job.wait_for_word();  // the guard has gone, and put back what it had found
  CHECK(job.is_restored());
}

TEST_CASE("TerminalGuard: a second stop works like the first", "[chardev]") {
  if (tsan_holds_signals_back()) return;
  Job job(TerminalSignals::kOn, [] {
    std::raise(SIGTSTP);
    std::raise(SIGTSTP);
    std::raise(SIGSTOP);  // lets the parent look at the modes after SIGCONT
  });
  job.go_on();
  for (int i = 0; i < 2; ++i) {
    CHECK(WIFSTOPPED(job.wait()));
    CHECK(job.is_restored());
    job.signal(SIGCONT);
  }
  CHECK(WIFSTOPPED(job.wait()));
  CHECK(job.is_raw());
}

TEST_CASE("TerminalGuard: what is no terminal is left alone", "[chardev]") {
  const Pipe pipe = make_pipe().value();
  CHECK(TerminalGuard::create(pipe.read.get(), TerminalSignals::kOn).has_value());
}
