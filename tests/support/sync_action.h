// Runs a test's code at a named point of ours (util/sync_point.h), to replay a race step by step.
#pragma once

#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "util/check.h"
#include "util/sync_point.h"

namespace rhea::test {

/// While it lives, a thread that passes the point `name` runs `action` first.
/// Invariants: one at a time; no thread is inside the action when it dies.
class SyncAction {
 public:
  SyncAction(std::string name, std::function<void()> action)
      : name_(std::move(name)), action_(std::move(action)) {
    RHEA_CHECK(current_ == nullptr);
    current_ = this;
    sync_point_handler.store(handle, std::memory_order_release);  // pairs with RHEA_SYNC_POINT
  }
  ~SyncAction() {
    sync_point_handler.store(nullptr, std::memory_order_release);
    current_ = nullptr;
  }
  SyncAction(const SyncAction&) = delete;
  SyncAction& operator=(const SyncAction&) = delete;

 private:
  static void handle(const char* name) {
    if (current_->name_ == name) current_->action_();
  }

  inline static SyncAction* current_ = nullptr;
  const std::string name_;
  const std::function<void()> action_;
};

}  // namespace rhea::test
