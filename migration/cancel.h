// Cancel: one switch that ends whatever waits on its behalf.
#pragma once

#include <atomic>
#include <memory>

#include "util/error.h"
#include "util/fd.h"

namespace rhea::migration {

/// Thread: any. Shared: everything that may wait for a peer holds it, so that no switch is thrown
/// in a dead object.
/// Invariants: thrown once and for good; fd() is readable from then on, for any number of pollers.
class Cancel {
 public:
  static Result<std::shared_ptr<Cancel>> create();

  /// Wakes all who wait, and has all who would wait fail with kCancelled instead. Never blocks.
  void cancel() noexcept;
  bool cancelled() const noexcept {
    // acquire: pairs with the exchange in cancel(); who sees the switch sees why it was thrown
    return cancelled_.load(std::memory_order_acquire);
  }
  int fd() const noexcept { return event_.get(); }

 private:
  explicit Cancel(Fd event) : event_(std::move(event)) {}

  std::atomic<bool> cancelled_ = false;
  const Fd event_;  // never cleared
};

}  // namespace rhea::migration
