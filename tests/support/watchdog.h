// Ends a test that hangs, with its name, instead of leaving it to the runner's time-out.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>

namespace rhea::test {

/// Aborts the program unless it is destroyed within `limit`. Built on the standard library alone,
/// because it watches our own primitives.
class Watchdog {
 public:
  Watchdog(std::string what, std::chrono::seconds limit)
      : thread_([what = std::move(what), limit, over = over_.get_future()] {
          if (over.wait_for(limit) == std::future_status::ready) return;
          std::fprintf(stderr, "watchdog: %s hangs\n", what.c_str());
          std::abort();
        }) {}
  ~Watchdog() {
    over_.set_value();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::promise<void> over_;
  std::thread thread_;
};

}  // namespace rhea::test
