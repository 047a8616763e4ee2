#include "util/thread.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <system_error>
#include <utility>

#include "util/rcu.h"

namespace rhea {

Result<Thread> Thread::start(std::string name, std::move_only_function<void()> body) {
  // The mask is inherited, so a new thread never runs a handler meant for main.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  Result<Thread> result = Error(ErrorKind::kResource, "");
  try {
    result = Thread(std::thread([n = std::move(name), b = std::move(body)]() mutable {
      pthread_setname_np(pthread_self(), n.substr(0, 15).c_str());
      RcuThread registration;
      b();
      b = nullptr;  // captured state dies while the thread is still registered
    }));
  } catch (const std::system_error& e) {
    // EAGAIN, which elsewhere says "try again": here a limit is reached.
    result = Error(ErrorKind::kResource,
                   fmt::format("cannot start a thread: {}", e.code().message()), e.code().value());
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return result;
}

Thread::~Thread() {
  if (thread_.joinable()) thread_.join();
}

void Thread::join() { thread_.join(); }

int current_thread_id() noexcept { return ::gettid(); }

}  // namespace rhea
