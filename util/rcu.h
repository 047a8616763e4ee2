// Read-copy-update: readers that never wait, updaters that free late.
//
// The problem: a thread walks a shared structure (the FlatView, the listener list) on every vCPU
// exit while the main thread replaces it. A lock would put every exit behind one word; the naive
// answer, "the updater holds the BQL", does not stop a reader that takes no lock.
//
// The rules:
//  - A reader holds an RcuReadGuard while it uses anything it loaded from an RcuPtr. A section may
//    contain the acquisition of the BQL (an MMIO exit does) and waits for nothing else: grace
//    period, poll, drain and coroutine entry abort inside one.
//  - An updater publishes a new version and hands the old one to rcu_retire. It never waits.
//  - A callback runs on the RCU thread after every reader that could see the old version has left.
//    It frees plain memory and never takes the BQL; what needs a home thread is posted there. It
//    may read and retire more, but not wait for readers.
//  - rcu_synchronize waits for readers, rcu_drain_callbacks for the frees queued so far; neither
//    implies the other. Both abort inside a section or with the BQL held, for a vCPU may sit in a
//    section waiting for the BQL.
// Cost: about 10 ns a section (liburcu, memb flavour).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "util/thread_annotations.h"

namespace rhea {

/// The capability that a read section holds, shared.
class CAPABILITY("rcu") RcuDomain {
 public:
  void read_lock() ACQUIRE_SHARED();
  void read_unlock() RELEASE_SHARED();
  /// Whether the calling thread is inside a read section.
  bool in_read_section() const noexcept;
  /// Aborts unless it is, and teaches the analysis that it is.
  void assert_read_section() const noexcept ASSERT_SHARED_CAPABILITY(this);
};

extern RcuDomain rcu;

/// A read section for a scope. Sections nest. Thread: one that is registered (see RcuThread).
class SCOPED_CAPABILITY RcuReadGuard {
 public:
  RcuReadGuard() ACQUIRE_SHARED(rcu) { rcu.read_lock(); }
  ~RcuReadGuard() RELEASE() { rcu.read_unlock(); }
  RcuReadGuard(const RcuReadGuard&) = delete;
  RcuReadGuard& operator=(const RcuReadGuard&) = delete;
};

/// Registers the calling thread as a reader for its scope. rhea::Thread does it for its threads;
/// main and foreign threads create one themselves.
class RcuThread {
 public:
  RcuThread();
  ~RcuThread();
  RcuThread(const RcuThread&) = delete;
  RcuThread& operator=(const RcuThread&) = delete;
};

/// Runs `callback` on the RCU thread after a grace period. Any registered thread, in or out of a
/// read section; never blocks. Callbacks of one thread run in order.
void rcu_call(std::move_only_function<void()> callback);

/// Destroys `object` after a grace period, on the RCU thread.
template <class T>
void rcu_retire(std::unique_ptr<T> object) {
  if (object != nullptr) rcu_call([o = std::move(object)]() mutable { o.reset(); });
}
/// Drops a reference after a grace period, on the RCU thread.
template <class T>
void rcu_retire(std::shared_ptr<T> object) {
  if (object != nullptr) rcu_call([o = std::move(object)]() mutable { o.reset(); });
}

/// Waits until every read section that was open at the call has closed.
void rcu_synchronize();
/// Waits until every callback queued before the call has run.
void rcu_drain_callbacks();

/// A pointer that is replaced by updaters (who agree on a lock of their own) and loaded by readers.
/// Owns: nothing. The updater takes the old value from exchange() and retires it.
template <class T>
class RcuPtr {
 public:
  RcuPtr() = default;
  explicit RcuPtr(T* initial) : pointer_(initial) {}

  T* load() const noexcept REQUIRES_SHARED(rcu) {
    // acquire: pairs with the release half of exchange(), so the pointee is seen initialised
    return pointer_.load(std::memory_order_acquire);
  }
  /// The current value for the updater, who holds the lock that all updaters hold.
  T* load_as_updater() const noexcept { return pointer_.load(std::memory_order_relaxed); }
  T* exchange(T* next) noexcept { return pointer_.exchange(next, std::memory_order_acq_rel); }

 private:
  std::atomic<T*> pointer_{nullptr};
};

}  // namespace rhea
