#include "util/main_loop.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <utility>

#include "util/check.h"
#include "util/internal/aio_impl.h"
#include "util/lock_rank.h"
#include "util/rcu.h"

namespace rhea {

struct MainLoop::Impl {
  std::unique_ptr<AioContext> service;
  std::unique_ptr<AioContext> block;
  TimerList* vm_timers = nullptr;  // guarded by the BQL
  std::atomic<bool> quit{false};
  bool turning = false;  // main only

  std::array<AioContext::Impl*, 2> contexts() { return {service->impl_.get(), block->impl_.get()}; }

  /// Sleeps without the BQL until one of the contexts has something, or a timer is due.
  void sleep() REQUIRES(bql) {
    for (AioContext::Impl* context : contexts()) context->gate.prepare_to_sleep();
    Nanoseconds limit =
        vm_timers != nullptr ? vm_timers->host_time_until_next() : Nanoseconds::max();
    for (AioContext::Impl* context : contexts()) limit = std::min(limit, context->sleep_limit());
    if (quit.load(std::memory_order_relaxed)) limit = Nanoseconds::zero();
    std::array<pollfd, 2> fds{};
    for (size_t i = 0; i < fds.size(); ++i) {
      fds[i] = pollfd{.fd = contexts()[i]->epoll.get(), .events = POLLIN, .revents = 0};
    }
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
    const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
    bql.unlock();
    const int n =
        ::ppoll(fds.data(), fds.size(), limit == Nanoseconds::max() ? nullptr : &timeout, nullptr);
    const int error = errno;
    bql.lock();
    RHEA_CHECK(n >= 0 || error == EINTR, "ppoll: errno {}", error);
    for (AioContext::Impl* context : contexts()) context->gate.done_sleeping();
  }
};

MainLoop::MainLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MainLoop::~MainLoop() = default;

Result<std::unique_ptr<MainLoop>> MainLoop::create() {
  auto impl = std::make_unique<Impl>();
  impl->service = TRY(AioContext::create("service"));
  impl->block = TRY(AioContext::create("block"));
  impl->service->impl_->only_outermost = true;
  return std::unique_ptr<MainLoop>(new MainLoop(std::move(impl)));
}

AioContext& MainLoop::service() noexcept { return *impl_->service; }
AioContext& MainLoop::block() noexcept { return *impl_->block; }

void MainLoop::serve_timers(TimerList* timers) {
  impl_->vm_timers = timers;
  impl_->service->notify();
}

void MainLoop::turn() {
  impl_->service->impl_->assert_home("the main loop turns");
  RHEA_CHECK(!std::exchange(impl_->turning, true), "the main loop is turned inside itself");
  RHEA_CHECK(!rcu.in_read_section(), "poll inside an RCU read section");
  RHEA_CHECK(held_locks_below_bql() == 0, "poll with a lock held");
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
