// co_run_on_pool: a blocking system call from a coroutine.
#pragma once

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "util/coroutine.h"
#include "util/error.h"
#include "util/thread_pool.h"

namespace rhea {

/// Runs `work` on a worker of `pool` and suspends until it has; the coroutine goes on on its own
/// executor, with what `work` returned. What `work` captures by reference may be on the coroutine's
/// stack; `work` itself stays there, too. The pool allocates one job, nothing else is allocated.
/// errno does not come along: return it.
/// Errors: kResource when the pool has no thread and the host gives none; kCancelled when the pool
/// was stopped first. `work` did not run then.
template <class F>
auto co_run_on_pool(Co& co, ThreadPool& pool, F&& work) -> Result<std::invoke_result_t<F&>> {
  using Value = std::invoke_result_t<F&>;
  static_assert(!std::is_reference_v<Value>, "return a value, or a pointer");
  struct State {
    std::remove_reference_t<F>& work;
    Coroutine& coroutine;
    Result<Value> result;
  } state{work, co.coroutine(), fail(ErrorKind::kCancelled, "the thread pool was stopped")};
  // Two closures of one pointer each: std::move_only_function keeps them inside itself.
  const auto run = [s = &state] {
    if constexpr (std::is_void_v<Value>) {
      s->work();
      s->result = ok();
    } else {
      s->result = s->work();
    }
  };
  // Called by the executor, outside coroutines, so this resumes without another turn.
  const auto done = [s = &state](PoolOutcome) { s->coroutine.resume(); };
  TRY(pool.submit(co.executor(), run, done));
  co.yield();
  return std::move(state.result);
}

}  // namespace rhea
