#include "block/graph_lock.h"

#include "block/internal/graph_lock_impl.h"

namespace rhea::block {

GraphLock graph_lock;

template class BasicGraphLock<GraphLockPolicy>;

// Unchecked: nothing is locked. Main alone writes, and does not while this forbids it to poll.
GraphMainReadGuard::GraphMainReadGuard(Gs&) NO_THREAD_SAFETY_ANALYSIS {
  rhea::internal::note_lock_acquire(LockRank::kGraphWrite);
}
GraphMainReadGuard::~GraphMainReadGuard() {
  rhea::internal::note_lock_release(LockRank::kGraphWrite);
}

}  // namespace rhea::block
