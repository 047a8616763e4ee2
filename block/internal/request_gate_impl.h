// BasicRequestGate's functions, for request_gate.cc and for tests with another policy.
#pragma once

#include "block/request_gate.h"
#include "util/check.h"
#include "util/sync_point.h"

namespace rhea::block {

template <class Policy>
BasicRequestGate<Policy>::~BasicRequestGate() {
  RHEA_CHECK(inside() == 0, "a gate goes while requests are inside");
}

template <class Policy>
void BasicRequestGate<Policy>::enter(Co& co) {
  for (;;) {
    inside_.add(BlockContext::of(co));
    // Orders the count before the look; pairs with the one in shut().
    Policy::fence_after_entering();
    if (!is_shut()) [[likely]]
      return;
    RHEA_SYNC_POINT("RequestGate::enter: counted, and found it shut");
    rhea::internal::CoWaiter waiter(co.coroutine());
    {
      MutexLock lock(mutex_);
      if (!is_shut()) return;
      parked_.push(waiter);
    }
    leave(co);  // who waits may have seen the count
    co.yield();
  }
}

template <class Policy>
void BasicRequestGate<Policy>::leave(Co& co) {
  if (MainWait* main = main_) {
    inside_.subtract(BlockContext::of(co));
    RHEA_SYNC_POINT("RequestGate::leave: out, not yet kicked");
    main->kick();
    return;
  }
  inside_.subtract(BlockContext::of(co));
  Policy::fence_after_entering();  // as in enter()
  if (is_shut()) [[unlikely]]
    wake_waiter();
}

template <class Policy>
void BasicRequestGate<Policy>::wake_waiter() {
  Coroutine* waiting = nullptr;
  {
    MutexLock lock(mutex_);
    if (waits_for_empty_ != nullptr && inside() == 0) {
      waiting = std::exchange(waits_for_empty_, nullptr);
    }
  }
  if (waiting != nullptr) waiting->wake();
}

template <class Policy>
void BasicRequestGate<Policy>::shut() noexcept {
  shut_.store(true, std::memory_order_relaxed);
  // Orders the flag before any look at the count; pairs with the one in enter().
  Policy::fence_after_shutting();
}

template <class Policy>
void BasicRequestGate<Policy>::open() {
  rhea::internal::CoWaiter* waiting;
  {
    MutexLock lock(mutex_);
    // release: pairs with the acquire in is_shut(): what was changed while it was shut is seen
    shut_.store(false, std::memory_order_release);
    waiting = parked_.take_all();
  }
  rhea::internal::wake_all(waiting);
}

template <class Policy>
void BasicRequestGate<Policy>::wait_until_empty(Co& co) {
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (inside() == 0) return;
      waits_for_empty_ = &co.coroutine();
    }
    co.yield();
  }
}

}  // namespace rhea::block
