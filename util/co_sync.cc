#include "util/co_sync.h"

#include <utility>

#include "util/check.h"

namespace rhea {
namespace internal {

CoWaiter* CoWaiterList::pop() noexcept {
  CoWaiter* first = head_;
  if (first == nullptr) return nullptr;
  head_ = first->next;
  if (head_ == nullptr) tail_ = &head_;
  return first;
}

CoWaiter* CoWaiterList::take_all() noexcept {
  tail_ = &head_;
  return std::exchange(head_, nullptr);
}

void wake_all(CoWaiter* first) {
  while (first != nullptr) {
    CoWaiter* next = first->next;  // it lives on a stack that runs once woken
    first->coroutine.wake();
    first = next;
  }
}

}  // namespace internal

CoMutex::~CoMutex() {
  MutexLock lock(mutex_);
  RHEA_CHECK(holder_ == nullptr && waiters_.empty(), "a CoMutex in use was destroyed");
}

void CoMutex::lock(Co& co) {
  internal::CoWaiter waiter(co.coroutine());
  {
    MutexLock lock(mutex_);
    RHEA_CHECK(holder_ != &co.coroutine(), "a coroutine locks a CoMutex twice");
    if (holder_ == nullptr) {
      holder_ = &co.coroutine();
      return;
    }
    waiters_.push(waiter);
  }
  co.yield();  // unlock() has made this coroutine the holder
}

void CoMutex::unlock(Co& co) {
  Coroutine* next = nullptr;
  {
    MutexLock lock(mutex_);
    RHEA_CHECK(holder_ == &co.coroutine(), "a CoMutex is unlocked by a stranger");
    internal::CoWaiter* waiter = waiters_.pop();
    next = waiter != nullptr ? &waiter->coroutine : nullptr;
    holder_ = next;
  }
  if (next != nullptr) next->wake();
}

CoQueue::~CoQueue() { RHEA_CHECK(empty(), "a CoQueue with waiters was destroyed"); }

void CoQueue::wait(Co& co, CoMutex& mutex) {
  internal::CoWaiter waiter(co.coroutine());
  {
    MutexLock lock(mutex_);
    waiters_.push(waiter);
  }
  mutex.unlock(co);
  co.yield();
  mutex.lock(co);
}

void CoQueue::wait(Co& co) {
  internal::CoWaiter waiter(co.coroutine());
  {
    MutexLock lock(mutex_);
    waiters_.push(waiter);
  }
  co.yield();
}

bool CoQueue::wake_one() {
  internal::CoWaiter* waiter = nullptr;
  {
    MutexLock lock(mutex_);
    waiter = waiters_.pop();
  }
  if (waiter == nullptr) return false;
  waiter->coroutine.wake();
  return true;
}

void CoQueue::wake_all() {
  internal::CoWaiter* waiting;
  {
    MutexLock lock(mutex_);
    waiting = waiters_.take_all();
  }
  internal::wake_all(waiting);
}

bool CoQueue::empty() const {
  MutexLock lock(mutex_);
  return waiters_.empty();
}

}  // namespace rhea
