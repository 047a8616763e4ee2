// System calls that fail as a test says, by seccomp(2). What is filtered is the calling thread, for
// the rest of its life, so use a thread of the test's own.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <thread>

#include "util/check.h"
#include "util/fd.h"

namespace rhea::test {

/// Applies `action` (SECCOMP_RET_...) to system call `number` on the calling thread. The listener's
/// descriptor if `flags` asks for one.
inline int filter_syscall(unsigned number, unsigned action, unsigned flags = 0) {
  std::array<sock_filter, 4> program{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, action),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  RHEA_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  const long result = ::syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
  RHEA_CHECK(result >= 0, "seccomp");
  return static_cast<int>(result);
}

/// Makes `number` fail with `error` on the calling thread.
inline void forbid_syscall(unsigned number, int error) {
  filter_syscall(number, SECCOMP_RET_ERRNO | static_cast<unsigned>(error));
}

/// A system call that fails for as long as the test says.
/// Thread: apply() on the thread to be filtered, which ends before this does; set_failing() on any.
class FailingSyscall {
 public:
  FailingSyscall(unsigned number, int error) : number_(number), error_(error) {}
  ~FailingSyscall() {
    signal_eventfd(stop_.get());
    if (supervisor_.joinable()) supervisor_.join();
  }
  FailingSyscall(const FailingSyscall&) = delete;
  FailingSyscall& operator=(const FailingSyscall&) = delete;

  void apply() {
    listener_ =
        Fd(filter_syscall(number_, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER));
    supervisor_ = std::thread([this] { supervise(); });
  }
  void set_failing(bool failing) { failing_ = failing; }

 private:
  void supervise() {
    std::array<pollfd, 2> fds{pollfd{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                              pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    while (::poll(fds.data(), fds.size(), -1) < 0 || fds[1].revents == 0) {
      if ((fds[0].revents & POLLIN) == 0) {
        fds[0].fd = -1;  // the filtered thread has ended
        continue;
      }
      seccomp_notif call{};
      if (::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) continue;
      seccomp_notif_resp answer{};
      answer.id = call.id;
      if (failing_) {
        answer.error = -error_;
      } else {
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
      }
      ::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
  }

  const unsigned number_;
  const int error_;
  std::atomic<bool> failing_ = false;
  const Fd stop_ = make_eventfd().value();
  Fd listener_;
  std::thread supervisor_;
};

}  // namespace rhea::test
