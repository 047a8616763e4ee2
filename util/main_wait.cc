#include "util/main_wait.h"

#include "util/check.h"
#include "util/internal/aio_impl.h"
#include "util/sync_point.h"
#include "util/timer.h"

namespace rhea {

bool MainWait::until(Gs&, const std::function<bool()>& done, Nanoseconds timeout) {
  // Before the first look, which is often the last: a caller that may not wait is to be found also
  // when there is nothing to wait for. The Gs does not say it: a lambda may carry one anywhere.
  block_.impl_->assert_may_poll();
  RHEA_CHECK(block_.impl_->depth == 0, "main waits in a block-context handler");
  // Once is enough, however often we look: a kick that finds us here stays until the poll that
  // follows it.
  gate_.prepare_to_sleep();
  bool expired = false;
  Timer timer(block_.timers(), [&expired] { expired = true; });
  bool holds = done();
  if (!holds && timeout != Nanoseconds::max()) timer.arm_after(timeout);
  while (!holds && !expired) {
    RHEA_SYNC_POINT("MainWait::until: looked, not yet asleep");
    block_.poll(PollMode::kBlocking);
    holds = done();
  }
  gate_.done_sleeping();
  return holds;
}

}  // namespace rhea
