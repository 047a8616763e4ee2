// MainCalls: a migration's thread has something done on main.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/mutex.h"
#include "util/one_shot_event.h"

namespace rhea::migration {

/// Main never waits for the thread while the thread may wait for main: it closes this first.
///
/// Thread: call() on one thread that is not main, and holds nothing; all else on main with the BQL.
/// Invariants: it is closed, and its thread joined, before it goes.
class MainCalls {
 public:
  /// `service` outlives it.
  explicit MainCalls(AioContext& service);
  ~MainCalls();
  MainCalls(const MainCalls&) = delete;
  MainCalls& operator=(const MainCalls&) = delete;

  /// Runs `body` on main, in the service context, and returns what it returned. Errors: its own;
  /// kCancelled if this was closed before it began.
  template <class F>
  auto call(F&& body) -> std::invoke_result_t<F> {
    std::optional<std::invoke_result_t<F>> result;
    run([&] { result.emplace(body()); });
    if (!result) return fail(ErrorKind::kCancelled, "The machine is being taken apart");
    return std::move(*result);
  }

  /// Nothing is run from here on: who waits is told so.
  void close() REQUIRES(bql);

 private:
  struct Call {
    std::move_only_function<void()> body;
    OneShotEvent done;
  };
  struct State {
    Call* waiting = nullptr;
    bool closed = false;
  };
  void run(std::move_only_function<void()> body);
  void serve();

  Guarded<State> state_;
  Bh bh_;
};

}  // namespace rhea::migration
