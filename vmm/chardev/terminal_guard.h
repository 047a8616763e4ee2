// TerminalGuard: the terminal in raw mode, and given back however the process ends.
#pragma once

#include <cstdint>

#include "util/error.h"

namespace rhea::vmm {

/// Whether Ctrl-C, Ctrl-Z and Ctrl-\ signal the process or reach the guest.
enum class TerminalSignals : uint8_t { kOn, kOff };

/// Holds a terminal in raw mode. The modes it found come back when it is destroyed, at exit(), on a
/// fatal signal whose disposition nobody else took, and while the process is stopped by Ctrl-Z;
/// SIGCONT makes it raw again. A process in the background leaves the terminal alone: it is
/// somebody else's then. (SIGKILL and SIGSTOP can not be caught: `stty sane`, or `reset`.)
///
/// Signal handlers reach no object, so its state is the process's: one at a time.
/// Thread: main; the handlers run on any thread and call async-signal-safe functions only.
class TerminalGuard {
 public:
  /// Does nothing where `fd` is no terminal. Errors: kBusy if there is one already, and whatever
  /// the host refuses.
  static Result<TerminalGuard> create(int fd, TerminalSignals signals);

  TerminalGuard() = default;
  TerminalGuard(TerminalGuard&& other) noexcept;
  TerminalGuard& operator=(TerminalGuard&& other) noexcept;
  ~TerminalGuard();

 private:
  bool active_ = false;
};

}  // namespace rhea::vmm
