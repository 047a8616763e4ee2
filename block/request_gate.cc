#include "block/request_gate.h"

#include "util/check.h"

namespace rhea::block {

RequestGate::~RequestGate() { RHEA_CHECK(inside() == 0, "a gate goes while requests are inside"); }

void RequestGate::enter(Co& co) {
  for (;;) {
    BlockContext& context = BlockContext::of(co);
    inside_.add(context);
    // Orders the count before the look; pairs with the one in shut().
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!is_shut()) [[likely]]
      return;
    rhea::internal::CoWaiter waiter(co.coroutine());
    {
      MutexLock lock(mutex_);
      if (!is_shut()) return;
      parked_.push(waiter);
    }
    leave(co);
    co.yield();
  }
}

void RequestGate::leave(Co& co) {
  inside_.subtract(BlockContext::of(co));
  std::atomic_thread_fence(std::memory_order_seq_cst);  // as in enter()
  if (!is_shut()) [[likely]]
    return;
  Coroutine* waiting = nullptr;
  {
    MutexLock lock(mutex_);
    if (waits_for_empty_ != nullptr && inside() == 0) {
      waiting = std::exchange(waits_for_empty_, nullptr);
    }
  }
  if (waiting != nullptr) waiting->wake();
}

void RequestGate::shut() noexcept {
  shut_.store(true, std::memory_order_relaxed);
  // Orders the flag before any look at the count; pairs with the one in enter().
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void RequestGate::open() {
  rhea::internal::CoWaiter* waiting;
  {
    MutexLock lock(mutex_);
    // release: pairs with the acquire in is_shut(): what was changed while it was shut is seen
    shut_.store(false, std::memory_order_release);
    waiting = parked_.take_all();
  }
  while (waiting != nullptr) {
    rhea::internal::CoWaiter* next = waiting->next;  // it lives on a stack that runs once woken
    waiting->coroutine.wake();
    waiting = next;
  }
}

void RequestGate::wait_until_empty(Co& co) {
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
