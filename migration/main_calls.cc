#include "migration/main_calls.h"

#include "util/check.h"

namespace rhea::migration {

MainCalls::MainCalls(AioContext& service) : bh_(service, [this] { serve(); }) {}

MainCalls::~MainCalls() {
  const bool closed = state_.with([](const State& state) { return state.closed; });
  RHEA_CHECK(closed, "a migration's calls to main go before they are closed");
}

void MainCalls::run(std::move_only_function<void()> body) {
  Call call{std::move(body), {}};
  const bool taken = state_.with([&call](State& state) {
    if (!state.closed) state.waiting = &call;
    return !state.closed;
  });
  if (!taken) return;
  bh_.schedule();
  call.done.wait();
}

void MainCalls::serve() {
  // Taken first: close() may be called by the body.
  Call* const call =
      state_.with([](State& state) { return std::exchange(state.waiting, nullptr); });
  if (call == nullptr) return;
  call->body();
  call->done.set();
}

void MainCalls::close() {
  Call* const call = state_.with([](State& state) {
    state.closed = true;
    return std::exchange(state.waiting, nullptr);
  });
  if (call != nullptr) call->done.set();
}

}  // namespace rhea::migration
