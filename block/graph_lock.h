// GraphLock: readers walk the block graph, main alone changes it.
//
// The problem: requests on any number of iothreads follow the edges between nodes while main
// inserts, removes and replaces nodes. Readers are coroutines that hold the graph for the whole of
// a request, across yields; the writer is main, which must go on serving completions while it
// waits. Drain alone does not protect the graph (it asks sources to be quiet, it excludes nobody),
// and a lock alone starves its writer: so the write side exists only behind drain-all (see
// Graph::change), which is what keeps readers away, and the lock is what proves it.
//
//   reader, coroutine                        writer, main
//   1 own cell + 1; fence                    1 flag down; poll until the sum of cells is 0
//   2 flag down? inside                      2 flag up; fence
//   3 else under the list lock: flag down    3 sum is 0? inside
//     after all? inside. Else own cell - 1,  4 else flag down, wake all parked, back to 1
//     park in the list; 1 again when woken
//                                            unlock: under the list lock flag down, take the list;
//   unlock: own cell - 1; fence; kick        then wake all
//
//  - The flag is down while the writer polls, so a handler that it polls may read (D1, D2).
//  - A retreating writer wakes who parked in between: a parked reader may hold what an inside one
//    waits for (D13, D14).
//  - Every unlock kicks, whatever the flag says: the writer sleeps with the flag down (D15).
//  - Only a sum taken with the flag visible counts: a reader may lock in one context and unlock in
//    another, so before that the sum may be negative, and falsely zero (R7).
// Models: tests/models/graph_lock.pml, graph_counters.pml, graph_drain.pml, store_buffer.pml.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "block/block_context.h"
#include "util/clock.h"
#include "util/co_sync.h"
#include "util/main_wait.h"
#include "util/mutex.h"

namespace rhea::block {

/// What the lock is made of; tests replace a part to show what it is for.
struct GraphLockPolicy {
  static void fence_after_entering() noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  static void fence_after_flag() noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }
};

/// A reader-writer lock with one writer, main, and coroutines as readers.
///
/// Thread: read_lock() and read_unlock() in coroutines whose context has a BlockContext, main's
/// included; the write side on main. Errors: write_lock() gives up at its deadline.
/// Invariants: not recursive, in either way: a nested read aborts (D13 has no other cure that a
/// caller can rely on). Nothing that a reader waits for while it reads may need the writer's end.
template <class Policy = GraphLockPolicy>
class CAPABILITY("graph") BasicGraphLock {
 public:
  BasicGraphLock() = default;
  BasicGraphLock(const BasicGraphLock&) = delete;
  BasicGraphLock& operator=(const BasicGraphLock&) = delete;

  /// Suspends while a writer is inside.
  void read_lock(Co& co) ACQUIRE_SHARED();
  void read_unlock(Co& co) RELEASE_SHARED();

  /// Waits, polling the block context, until no reader is inside; false if `timeout` passed first.
  /// Main, at the top, with nothing of the graph held.
  bool write_lock(Gs& gs, Nanoseconds timeout) TRY_ACQUIRE(true);
  void write_unlock(Gs& gs) RELEASE();

  /// Teach the analysis what the caller knows.
  void assert_reading() const noexcept ASSERT_SHARED_CAPABILITY(this) {}
  void assert_writing() const noexcept ASSERT_CAPABILITY(this);

  /// How main waits: from before the first reader until after the last, because a reader that is on
  /// its way out kicks whom it finds here. Main; null detaches.
  void set_waiter(MainWait* waiter) noexcept;

  // For BlockContext. Main.
  void add_context(BlockContext& context);
  /// The context's cell goes on in a total of the dead ones.
  void remove_context(BlockContext& context);
  const std::vector<BlockContext*>& contexts() const noexcept { return contexts_; }

 private:
  int64_t readers() const noexcept;
  void lower_flag();

  // Main's alone, so that the writer's look at the cells takes no lock.
  std::vector<BlockContext*> contexts_;
  int64_t orphans_ = 0;
  std::atomic<bool> writing_{false};
  std::atomic<MainWait*> waiter_{nullptr};
  Mutex mutex_{LockRank::kLeaf};
  rhea::internal::CoWaiterList parked_ GUARDED_BY(mutex_);
};

using GraphLock = BasicGraphLock<>;

/// The one graph lock. Global, because it is the capability that the annotations name and because a
/// process has one graph.
extern GraphLock graph_lock;

/// Holds the graph for a request, in a coroutine; yields are fine, a second guard is not.
class SCOPED_CAPABILITY GraphReadGuard {
 public:
  explicit GraphReadGuard(Co& co) ACQUIRE_SHARED(graph_lock) : co_(co) { graph_lock.read_lock(co); }
  ~GraphReadGuard() RELEASE() { graph_lock.read_unlock(co_); }
  GraphReadGuard(const GraphReadGuard&) = delete;
  GraphReadGuard& operator=(const GraphReadGuard&) = delete;

 private:
  Co& co_;
};

/// For main outside coroutines, which is the only thread that writes: nothing is locked, but no
/// poll may happen while it lives (aborts), so nothing changes meanwhile (G10).
class SCOPED_CAPABILITY GraphMainReadGuard {
 public:
  explicit GraphMainReadGuard(Gs& gs) ACQUIRE_SHARED(graph_lock);
  ~GraphMainReadGuard() RELEASE();
  GraphMainReadGuard(const GraphMainReadGuard&) = delete;
  GraphMainReadGuard& operator=(const GraphMainReadGuard&) = delete;
};

/// The token of a write section: only Graph::change() makes one, with every source of requests
/// drained and no reader inside.
class GraphWrite {
 public:
  GraphWrite(const GraphWrite&) = delete;
  GraphWrite& operator=(const GraphWrite&) = delete;
  /// For the first line of a function or lambda that the analysis sees alone.
  void assert_held() const noexcept ASSERT_CAPABILITY(graph_lock) { graph_lock.assert_writing(); }

 private:
  friend class Graph;
  GraphWrite() = default;
};

}  // namespace rhea::block
