// BasicGraphLock's functions, for graph_lock.cc and for tests with another policy.
#pragma once

#include <algorithm>

#include "block/graph_lock.h"
#include "util/check.h"
#include "util/lock_rank.h"
#include "util/sync_point.h"

namespace rhea::block {

// The analysis follows locks that are made of locks. This one is cells, a flag and their order:
// that is what its four functions say they hold, and the models are what shows it.

// Unchecked: held is a cell raised and the flag seen down after it.
template <class Policy>
void BasicGraphLock<Policy>::read_lock(Co& co) NO_THREAD_SAFETY_ANALYSIS {
  RHEA_CHECK(co.section_depth() == 0, "the graph is read-locked twice by one coroutine");
  co.section_depth() = 1;
  for (;;) {
    std::atomic<int64_t>& cell = BlockContext::of(co).readers().readers;
    // One writer of the cell. relaxed: the fence orders it before the look at the flag; pairs with
    // the fence after the writer's flag.
    cell.store(cell.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    Policy::fence_after_entering();
    // acquire: pairs with the release in lower_flag(): what the writer changed is seen
    if (!writing_.load(std::memory_order_acquire)) [[likely]]
      return;
    RHEA_SYNC_POINT("GraphLock::read_lock: saw the flag");
    rhea::internal::CoWaiter waiter(co.coroutine());
    {
      MutexLock lock(mutex_);
      // The flag goes down under this lock: now it stays up until whoever lowers it sees the list.
      if (!writing_.load(std::memory_order_acquire)) return;
      // No kick: the writer looks again only after it has lowered the flag, under this lock.
      cell.store(cell.load(std::memory_order_relaxed) - 1, std::memory_order_release);
      parked_.push(waiter);
    }
    co.yield();
  }
}

// Unchecked: given up is a cell lowered.
template <class Policy>
void BasicGraphLock<Policy>::read_unlock(Co& co) NO_THREAD_SAFETY_ANALYSIS {
  RHEA_CHECK(co.section_depth() == 1, "the graph is unlocked by a coroutine that does not read");
  co.section_depth() = 0;
  std::atomic<int64_t>& cell = BlockContext::of(co).readers().readers;
  // release: pairs with the acquire in readers(): the writer sees all that this reader did
  cell.store(cell.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  RHEA_SYNC_POINT("GraphLock::read_unlock: out, not yet kicked");
  // acquire: pairs with set_waiter(), which came before this reader. The kick's fence stands
  // between the cell and the look whether the writer waits.
  if (MainWait* writer = waiter_.load(std::memory_order_acquire)) writer->kick();
}

template <class Policy>
int64_t BasicGraphLock<Policy>::readers() const noexcept {
  int64_t sum = orphans_;
  for (BlockContext* context : contexts_) {
    sum += context->readers().readers.load(std::memory_order_acquire);
  }
  return sum;
}

template <class Policy>
void BasicGraphLock<Policy>::lower_flag() {
  rhea::internal::CoWaiter* waiting;
  {
    MutexLock lock(mutex_);
    // release: pairs with the acquires in read_lock()
    writing_.store(false, std::memory_order_release);
    waiting = parked_.take_all();
  }
  rhea::internal::wake_all(waiting);  // without the lock (D17)
}

// Unchecked: held is the flag up and every cell seen empty after it.
template <class Policy>
bool BasicGraphLock<Policy>::write_lock(Gs& gs, Nanoseconds timeout) NO_THREAD_SAFETY_ANALYSIS {
  RHEA_CHECK(!writing_.load(std::memory_order_relaxed), "the graph is write-locked twice");
  MainWait* waiter = waiter_.load(std::memory_order_relaxed);  // main sets it
  RHEA_CHECK(waiter != nullptr, "the graph is write-locked before anybody can wait");
  const auto end =
      std::chrono::steady_clock::now() + std::min<Nanoseconds>(timeout, std::chrono::hours(24));
  for (;;) {
    const Nanoseconds left =
        std::max(Nanoseconds(0), Nanoseconds(end - std::chrono::steady_clock::now()));
    if (!waiter->until(gs, [this] { return readers() == 0; }, left)) return false;
    RHEA_SYNC_POINT("GraphLock::write_lock: nobody seen, flag still down");
    writing_.store(true, std::memory_order_relaxed);  // the fence orders it
    Policy::fence_after_flag();
    RHEA_SYNC_POINT("GraphLock::write_lock: flag up, not yet looked again");
    if (readers() == 0) break;
    lower_flag();
  }
  // No poll and no yield from here on: both look at the locks that this thread holds.
  rhea::internal::note_lock_acquire(LockRank::kGraphWrite);
  return true;
}

// Unchecked: given up is the flag lowered.
template <class Policy>
void BasicGraphLock<Policy>::write_unlock(Gs&) NO_THREAD_SAFETY_ANALYSIS {
  assert_writing();
  rhea::internal::note_lock_release(LockRank::kGraphWrite);
  lower_flag();
}

template <class Policy>
void BasicGraphLock<Policy>::assert_writing() const noexcept {
  RHEA_CHECK(writing_.load(std::memory_order_relaxed), "the graph is changed outside a section");
}

template <class Policy>
void BasicGraphLock<Policy>::set_waiter(MainWait* waiter) noexcept {
  waiter_.store(waiter, std::memory_order_release);  // pairs with the acquire in read_unlock()
}

template <class Policy>
void BasicGraphLock<Policy>::add_context(BlockContext& context) {
  contexts_.push_back(&context);
}

template <class Policy>
void BasicGraphLock<Policy>::remove_context(BlockContext& context) {
  RHEA_CHECK(std::erase(contexts_, &context) == 1);
  orphans_ += context.readers().readers.load(std::memory_order_acquire);
}

}  // namespace rhea::block
