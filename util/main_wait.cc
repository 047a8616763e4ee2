#include "util/main_wait.h"

#include "util/sync_point.h"
#include "util/timer.h"

namespace rhea {

bool MainWait::until(Gs&, const std::function<bool()>& done, Nanoseconds timeout) {
  // relaxed: the fence orders it before the first look; pairs with the one in kick(). Later looks
  // need none: a kick that finds us here stays until the poll that follows it.
  waiters_.fetch_add(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  bool expired = false;
  Timer timer(block_.timers(), [&expired] { expired = true; });
  bool holds = done();
  if (!holds && timeout != Nanoseconds::max()) timer.arm_after(timeout);
  while (!holds && !expired) {
    RHEA_SYNC_POINT("MainWait::until: looked, not yet asleep");
    block_.poll(PollMode::kBlocking);
    holds = done();
  }
  waiters_.fetch_sub(1, std::memory_order_relaxed);
  return holds;
}

}  // namespace rhea
