// Runs a hidden test case of this very program in a fresh process, for twins that are bad on
// purpose: they end in a sanitizer report, an abort or a hang, and the parent says which.
#pragma once

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <string>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::test {

struct ChildResult {
  bool hung = false;  ///< still running at the deadline, and killed
  int status = 0;     ///< as from waitpid
  std::string output;

  bool passed() const { return !hung && WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  bool says(std::string_view text) const { return output.find(text) != std::string::npos; }
};

/// Runs the test case `name` (tagged [.], so that only we run it), or what else Catch2 takes for a
/// choice of tests, and collects its output. A fresh process, because a fork of one with threads
/// can not start threads under TSan; `before` runs in it while it is still this program's fork.
inline ChildResult run_hidden_test(const std::string& name, std::chrono::milliseconds limit,
                                   const std::function<void()>& before = {}) {
  Pipe pipe = MUST(make_pipe());
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    if (before) before();
    ::dup2(pipe.write.get(), STDOUT_FILENO);
    ::dup2(pipe.write.get(), STDERR_FILENO);
    ::execl("/proc/self/exe", "test", name.c_str(), nullptr);
    ::_exit(127);
  }
  pipe.write.reset();

  ChildResult result;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd ready{.fd = pipe.read.get(), .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) == 0) {
      result.hung = true;
      ::kill(child, SIGKILL);
      break;
    }
    char buffer[4096];
    const ssize_t n = ::read(pipe.read.get(), buffer, sizeof buffer);
    if (n <= 0) break;
    result.output.append(buffer, static_cast<size_t>(n));
  }
  ::waitpid(child, &result.status, 0);
  return result;
}

}  // namespace rhea::test
