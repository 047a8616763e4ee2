// ChildCommand: the program behind exec:, and how it ended.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "migration/cancel.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::migration {

/// Runs `/bin/sh -c COMMAND` in a process group of its own.
///
/// Thread: one at a time. Owns: the process; the destructor kills the group and reaps it.
/// Errors: what the command printed is its own business (it has our stderr); how it ended is in the
/// error of wait().
class ChildCommand {
 public:
  enum class Role : uint8_t {
    kReadsStream,   ///< an outgoing migration is its standard input
    kWritesStream,  ///< its standard output is an incoming migration
  };
  struct Started {
    std::unique_ptr<ChildCommand> child;
    Fd stream;  ///< our end of the pipe
  };
  static Result<Started> start(const std::string& command, Role role);

  ~ChildCommand();
  ChildCommand(const ChildCommand&) = delete;
  ChildCommand& operator=(const ChildCommand&) = delete;

  /// Waits until it has ended by itself. Errors: kIo if it failed, naming its status or signal;
  /// kCancelled, with the group killed.
  Result<void> wait(const Cancel& cancel);
  pid_t pid() const noexcept { return pid_; }

 private:
  ChildCommand(std::string command, pid_t pid) : command_(std::move(command)), pid_(pid) {}
  int reap() noexcept;

  const std::string command_;
  pid_t pid_;  // -1 once reaped
};

}  // namespace rhea::migration
