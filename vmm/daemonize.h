// -daemonize: the process goes to the background, and its starter learns how that went.
//
// fork() carries over one thread and none of io_uring, KVM and call_rcu state, so it is the first
// thing a process does. From then on the parent only waits:
//
//   parent                            child (new session)
//   read(channel) ...                 pidfile, machine, sockets
//     "ready"  -> exit 0         <--  ReadyNotifier::notify(); stdin/out/err become /dev/null
//     a text   -> stderr, exit 1 <--  ReadyNotifier::fail(text)
//     end      -> stderr, exit 1 <--  (died)
//
// The working directory stays: relative paths of sockets and files go on meaning the same.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::vmm {

/// The child's end of the channel; without one (a process in the foreground) there is nobody to
/// tell and all calls do nothing.
/// Thread: any one.   Invariants: the parent is told once; later calls do nothing.
class ReadyNotifier {
 public:
  ReadyNotifier() = default;
  explicit ReadyNotifier(Fd channel) : channel_(std::move(channel)) {}

  /// Everything is up: lets go of stdin, stdout and stderr, then lets the parent exit 0.
  /// Errors: the parent is gone, so whoever asked for this process does not wait for it any more.
  Result<void> notify();
  /// The start failed: the parent prints `message` and exits 1. True if there is a parent to do so.
  bool fail(std::string_view message) noexcept;

 private:
  Fd channel_;
};

/// What the parent has to do: exit with `status`, after printing `message` unless it is empty.
struct ParentExit {
  int status = 0;
  std::string message;
};

/// Forks. Returns in both processes: a ReadyNotifier in the child, and, once the child has spoken
/// or died, a ParentExit in the parent. Thread: main, the only one. That is checked. Errors: the
/// host refuses to fork.
Result<std::variant<ReadyNotifier, ParentExit>> daemonize();

}  // namespace rhea::vmm
