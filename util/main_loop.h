// MainLoop: the main thread's two contexts under the BQL.
#pragma once

#include <memory>

#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/main_wait.h"
#include "util/timer.h"

namespace rhea {

/// The main thread's loop.
///
/// The *block context* may be polled nested (by drain and run_sync): request coroutines,
/// completions, acknowledgements. The *service context* is polled only here, at the top: QMP,
/// chardevs, signals, run-state changes, ejects, finalisation. Nothing a nested poll waits for may
/// need the service context.
///
/// Thread: main. Owns: both contexts.
/// Invariants: the BQL is held except while asleep in the outermost poll, whose sleep raises both
/// contexts' notify counts before it looks at either.
class MainLoop {
 public:
  static Result<std::unique_ptr<MainLoop>> create();
  ~MainLoop();

  AioContext& service() noexcept;
  AioContext& block() noexcept;

  /// The token of global-state code. Aborts in a coroutine, in a handler of the block context (a
  /// nested poll may run one), and on other threads.
  Gs& gs() REQUIRES(bql);
  /// How main waits for others, and how they tell it.
  MainWait& waiter() noexcept;

  /// Serves `timers` (the machine's clock) as well, until it is replaced or set to null. Their
  /// callbacks run on main with the BQL held. Its `on_earlier`, and whoever starts its clock, calls
  /// service().notify().
  void serve_timers(TimerList* timers) REQUIRES(bql);

  /// Runs turns until request_quit(), which may have come before.
  void run() REQUIRES(bql);
  /// One outermost turn: sleeps until something is ready, then runs it. The BQL is let go once in
  /// every turn, also if there is no reason to sleep, so that vCPUs get it from a busy loop.
  void turn() REQUIRES(bql);
  /// Makes run() return after the current turn. Any thread; async-signal-safe it is not.
  void request_quit();

 private:
  struct Impl;
  explicit MainLoop(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhea
