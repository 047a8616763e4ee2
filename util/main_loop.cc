#include "util/main_loop.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <span>
#include <utility>

#include "util/check.h"
#include "util/coroutine.h"
#include "util/internal/aio_impl.h"
#include "util/sync_point.h"

namespace rhea {

struct MainLoop::Impl {
  std::unique_ptr<AioContext> service;
  std::unique_ptr<AioContext> block;
  std::unique_ptr<MainWait> waiter;
  Gs gs;
  TimerList* vm_timers GUARDED_BY(bql) = nullptr;
  std::atomic<bool> quit{false};
  bool turning = false;  // main only

  std::array<AioContext::Impl*, 2> contexts() { return {service->impl_.get(), block->impl_.get()}; }

  /// How long nothing can happen by itself; for after the counts are raised.
  Nanoseconds sleep_limit() REQUIRES(bql) {
    // relaxed: ordered by the gate's fence; request_quit() goes through the gate afterwards
    if (quit.load(std::memory_order_relaxed)) return Nanoseconds::zero();
    Nanoseconds limit =
        vm_timers != nullptr ? vm_timers->host_time_until_next() : Nanoseconds::max();
    for (AioContext::Impl* context : contexts()) limit = std::min(limit, context->sleep_limit());
    return limit;
  }

  /// Sleeps without the BQL until one of the contexts has something, or a timer is due.
  void sleep() REQUIRES(bql) {
    // Both before a look at either: what is published in between must find a sleeper.
    for (AioContext::Impl* context : contexts()) context->gate.prepare_to_sleep();
    // Before the look: what completes here is something to run, and a ring that is only waited for
    // submits nothing.
    for (AioContext::Impl* context : contexts()) context->look_at_ring();
    Nanoseconds limit = sleep_limit();
    RHEA_SYNC_POINT("MainLoop::turn: looked, not yet asleep");
    std::array<pollfd, 4> fds{};
    size_t used = 0;
    for (const AioContext::Impl* context : contexts()) {
      fds[used++] = pollfd{.fd = context->epoll.get(), .events = POLLIN, .revents = 0};
      if (!context->ring_is_busy()) continue;
      fds[used++] = pollfd{.fd = context->core->fd(), .events = POLLIN, .revents = 0};
      limit = std::min(limit, context->core->longest_sleep());
    }
    bql.unlock();
    internal::wait_for_any(std::span(fds).first(used), limit);
    // Awake already while it waits for the lock: what comes now needs no kick.
    for (AioContext::Impl* context : contexts()) context->gate.done_sleeping();
    bql.lock();
  }
};

MainLoop::MainLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MainLoop::~MainLoop() = default;

Result<std::unique_ptr<MainLoop>> MainLoop::create() {
  auto impl = std::make_unique<Impl>();
  impl->service = TRY(AioContext::create("service"));
  impl->block = TRY(AioContext::create("block"));
  impl->service->impl_->role = AioContext::Impl::Role::kMainService;
  impl->block->impl_->role = AioContext::Impl::Role::kMainBlock;
  impl->waiter = std::make_unique<MainWait>(*impl->block);
  return std::unique_ptr<MainLoop>(new MainLoop(std::move(impl)));
}

AioContext& MainLoop::service() noexcept { return *impl_->service; }
AioContext& MainLoop::block() noexcept { return *impl_->block; }
MainWait& MainLoop::waiter() noexcept { return *impl_->waiter; }

Gs& MainLoop::gs() {
  impl_->service->impl_->assert_home("global-state code runs");
  RHEA_CHECK(!in_coroutine(), "global-state code in a coroutine");
  RHEA_CHECK(impl_->block->impl_->depth == 0, "global-state code in a block-context handler");
  return impl_->gs;
}

void MainLoop::serve_timers(TimerList* timers) {
  impl_->vm_timers = timers;
  impl_->service->notify();
}

void MainLoop::turn() {
  impl_->service->impl_->assert_home("the main loop turns");
  RHEA_CHECK(!std::exchange(impl_->turning, true), "the main loop is turned inside itself");
  internal::assert_poll_is_legal();
  impl_->sleep();
  for (AioContext::Impl* context : impl_->contexts()) {
    context->dispatch(context->wait(Nanoseconds::zero()));
  }
  if (impl_->vm_timers != nullptr) impl_->vm_timers->run_expired();
  impl_->turning = false;
}

void MainLoop::run() {
  // acquire: pairs with the release in request_quit()
  while (!impl_->quit.load(std::memory_order_acquire)) turn();
}

void MainLoop::request_quit() {
  impl_->quit.store(true, std::memory_order_release);
  impl_->service->notify();
}

}  // namespace rhea
