// Gs and MainWait: what only the main thread may do, and how it waits for others while it does it.
#pragma once

#include <functional>
#include <utility>

#include "util/aio_context.h"
#include "util/clock.h"
#include "util/notify_gate.h"

namespace rhea {

class MainLoop;

/// The token of global-state code: "this runs on main, with the BQL, at the top: outside
/// coroutines, and not in a handler of the block context". Only MainLoop::gs() gives it out.
///
/// What changes the graph of block nodes, the devices or the machine takes a Gs&, so that code
/// which a nested poll may run can not reach it.
class Gs {
 public:
  Gs(const Gs&) = delete;
  Gs& operator=(const Gs&) = delete;

 private:
  friend class MainLoop;
  Gs() = default;
};

/// The only nested poll of the tree: main runs its block context until a condition holds that
/// other threads make true.
///
/// Thread: until() on main; kick() on any.
/// Invariants: whoever changes what a condition reads calls kick() afterwards, always: testing
/// first whether somebody waits is kick()'s own business, and takes a fence (D15, D16).
class MainWait {
 public:
  explicit MainWait(AioContext& block) : block_(block) {}
  MainWait(const MainWait&) = delete;
  MainWait& operator=(const MainWait&) = delete;

  /// What was written before it is seen by the condition. Allocates nothing.
  void kick() noexcept {
    gate_.notify([this] { block_.notify(); });
  }

  /// Polls until `done()` or until `timeout` has passed; false in the second case. Legal at the top
  /// of main alone: with no lock but the BQL, outside coroutines, handlers of the block context,
  /// RCU read sections and graph sections. Aborts elsewhere, also if nothing is to be waited for.
  bool until(Gs& gs, const std::function<bool()>& done, Nanoseconds timeout = Nanoseconds::max());

 private:
  AioContext& block_;
  NotifyGate gate_;  // the condition is its "pending work"
};

}  // namespace rhea
