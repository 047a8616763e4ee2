// Thread: a named thread that is registered with RCU and joined by its owner.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "util/error.h"

namespace rhea {

/// Owns a thread. Invariants: joined before it is destroyed (the destructor joins).
/// All signals are blocked in it; a vCPU thread unblocks its kick signal itself.
class Thread {
 public:
  Thread() = default;
  /// Starts `body` on a new thread. `name` shows in ps and gdb: 15 characters at most.
  /// Errors: kResource when the host gives no thread.
  static Result<Thread> start(std::string name, std::move_only_function<void()> body);

  Thread(Thread&&) = default;
  Thread& operator=(Thread&&) = default;
  ~Thread();

  bool joinable() const noexcept { return thread_.joinable(); }
  void join();
  std::thread::native_handle_type native_handle() { return thread_.native_handle(); }

 private:
  explicit Thread(std::thread thread) : thread_(std::move(thread)) {}
  std::thread thread_;
};

/// The kernel's id of the calling thread (gettid).
int current_thread_id() noexcept;

}  // namespace rhea
