// Another process that has an image open, for tests of image locks.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/child.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::block::test {

/// Another process that uses an image until it is told to end. It says on its standard output, with
/// a line, that it has begun.
class OtherProcess {
 public:
  explicit OtherProcess(std::vector<std::string> command) {
    Pipe in = MUST(make_pipe()), out = MUST(make_pipe());
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in.read.get(), STDIN_FILENO);
      ::dup2(out.write.get(), STDOUT_FILENO);
      ::dup2(out.write.get(), STDERR_FILENO);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    in_ = std::move(in.write);
    out_ = std::move(out.read);
  }
  ~OtherProcess() {
    if (pid_ > 0) end();
  }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;

  pid_t pid() const { return pid_; }
  void say(std::string_view text) { MUST(write_all(in_.get(), text)); }
  /// Reads until `text` has come; false if it never does.
  bool hear(std::string_view text) {
    while (heard_.find(text) == heard_.npos) {
      char buffer[512];
      const ssize_t n = ::read(out_.get(), buffer, sizeof buffer);
      if (n <= 0) return false;
      heard_.append(buffer, static_cast<size_t>(n));
    }
    return true;
  }
  const std::string& heard() const { return heard_; }
  /// Closes its input, and waits. Its exit status.
  int end() {
    in_.reset();
    hear("\xff");  // to the end
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = 0;
  Fd in_, out_;
  std::string heard_;
};

struct Answer {
  int status;
  std::string text;
};

inline Answer run(std::vector<std::string> command) {
  OtherProcess process(std::move(command));
  const int status = process.end();
  return {status, process.heard()};
}

/// Whether tests with QEMU's tools are to be left out.
inline bool no_qemu() {
  if (run({"qemu-io", "--version"}).status == 0) return false;
  WARN("SKIP: there is no qemu-io here (package qemu-utils)");
  return true;
}

}  // namespace rhea::block::test
