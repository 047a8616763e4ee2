// Ends a test that hangs, with its name, instead of leaving it to the runner's time-out.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>

namespace rhea::test {

/// Aborts the program unless it is destroyed, or all are fed, within `limit` again and again. Built
/// on the standard library alone, because it watches our own primitives.
class Watchdog {
 public:
  Watchdog(std::string what, std::chrono::seconds limit)
      : thread_([what = std::move(what), limit, over = over_.get_future()] {
          feed();
          while (over.wait_until(fed_at_.load() + limit) != std::future_status::ready) {
            if (Clock::now() < fed_at_.load() + limit) continue;
            std::fprintf(stderr, "watchdog: %s hangs\n", what.c_str());
            std::abort();
          }
        }) {}
  ~Watchdog() {
    over_.set_value();
    thread_.join();
  }
  /// There is progress: how long the whole takes is up to the host, and who else is busy on it. Any
  /// thread.
  static void feed() noexcept { fed_at_ = Clock::now(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  static inline std::atomic<Clock::time_point> fed_at_;
  std::promise<void> over_;
  std::thread thread_;
};

}  // namespace rhea::test
