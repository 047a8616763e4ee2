// Runs a test's code at a named point of ours (util/sync_point.h), to replay a race step by step.
#pragma once

#include <atomic>
#include <functional>
#include <initializer_list>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "util/check.h"
#include "util/sync_point.h"

namespace rhea::test {

/// While it lives, a thread that passes the point `name` runs `action` first; or that of the point
/// it passes, of several.
/// Thread: made and destroyed by one; the destructor waits for whoever is inside the action.
/// Invariants: one at a time.
class SyncAction {
 public:
  using Action = std::pair<std::string, std::function<void()>>;
  SyncAction(std::string name, std::function<void()> action)
      : SyncAction({Action(std::move(name), std::move(action))}) {}
  explicit SyncAction(std::initializer_list<Action> actions)
      : SyncAction(std::vector<Action>(actions)) {}
  explicit SyncAction(std::vector<Action> actions) : actions_(std::move(actions)) {
    RHEA_CHECK(current_.exchange(this) == nullptr);
    sync_point_handler.store(handle, std::memory_order_release);  // pairs with RHEA_SYNC_POINT
  }
  ~SyncAction() {
    sync_point_handler.store(nullptr, std::memory_order_release);
    current_ = nullptr;
    while (inside_ != 0) std::this_thread::yield();
  }
  SyncAction(const SyncAction&) = delete;
  SyncAction& operator=(const SyncAction&) = delete;

 private:
  static void handle(const char* name) {
    // Counted before it looks, and the destructor clears before it looks at the count.
    ++inside_;
    const SyncAction* self = current_;
    if (self != nullptr) {
      for (const auto& [point, action] : self->actions_) {
        if (point == name) action();
      }
    }
    --inside_;
  }

  inline static std::atomic<SyncAction*> current_ = nullptr;
  inline static std::atomic<int> inside_ = 0;
  const std::vector<Action> actions_;
};

}  // namespace rhea::test
