// ListenerSet: the listeners of one address space, walked without a lock and freed late.
//
// The problem: the migration thread walks the list while the main thread unplugs a device, and
// unplugging is reached from inside a read section (an eject is a port write), so unregistering can
// neither free at once nor wait. Hence an immutable vector of counted nodes behind one pointer: an
// updater publishes another vector, marks the node dead, and leaves the rest to RCU.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "memory/listener.h"
#include "util/bql.h"
#include "util/check.h"
#include "util/rcu.h"
#include "util/sync_point.h"

namespace rhea::memory {

/// Frees after a grace period.
struct RcuReclaim {
  template <class Pointer>
  static void retire(Pointer object) {
    rcu_retire(std::move(object));
  }
};

/// Thread: changed under the BQL, read by any registered thread in a read section.
/// Owns: a strong reference to each listener, until a grace period after its removal.
/// Invariants: sorted by priority, among equals in order of registration. `Reclaim` is a parameter
/// so that a test can show what happens without the grace period.
template <class Reclaim = RcuReclaim>
class ListenerSet {
 public:
  struct Node {
    Node(std::shared_ptr<MemoryListener> l, int p) : listener(std::move(l)), priority(p) {}
    /// Whether it has been removed; a walker skips it then.
    bool is_dead() const noexcept {
      // acquire: pairs with the release in remove(): what happened before is seen
      return dead.load(std::memory_order_acquire);
    }
    const std::shared_ptr<MemoryListener> listener;
    const int priority;
    std::atomic<bool> dead = false;
  };
  using List = std::vector<std::shared_ptr<Node>>;

  ListenerSet() = default;
  ListenerSet(const ListenerSet&) = delete;
  ListenerSet& operator=(const ListenerSet&) = delete;
  ~ListenerSet() { delete list_.exchange(nullptr); }

  void add(std::shared_ptr<MemoryListener> listener, int priority) REQUIRES(bql) {
    bql.assert_held();
    auto next = std::make_unique<List>(snapshot());
    for (const auto& node : *next) {
      RHEA_CHECK(node->listener != listener, "the listener is registered already");
    }
    const auto place = std::ranges::upper_bound(*next, priority, {},
                                                [](const auto& node) { return node->priority; });
    next->insert(place, std::make_shared<Node>(std::move(listener), priority));
    publish(std::move(next));
  }

  /// Never waits: legal in a read section.
  void remove(const MemoryListener& listener) REQUIRES(bql) {
    bql.assert_held();
    auto next = std::make_unique<List>(snapshot());
    const auto found = std::ranges::find_if(
        *next, [&](const auto& node) { return node->listener.get() == &listener; });
    RHEA_CHECK(found != next->end(), "the listener is not registered");
    const std::shared_ptr<Node> node = *found;
    next->erase(found);
    publish(std::move(next));  // the old vector holds the node, so it lasts as long as a reader
    // release: pairs with the acquire in is_dead()
    node->dead.store(true, std::memory_order_release);
  }

  /// Calls `f(MemoryListener&)` for each listener that is not dead, as a reader.
  template <class F>
  void for_each(F&& f) const REQUIRES_SHARED(rcu) {
    const List* list = list_.load();
    if (list == nullptr) return;
    for (const auto& node : *list) {
      RHEA_SYNC_POINT("ListenerSet: at a node");
      if (node->is_dead()) continue;
      RHEA_SYNC_POINT("ListenerSet: at a node that is alive");
      f(*node->listener);
    }
  }

  /// The present nodes for the updater. Counted, for a callback may unregister its listener.
  List snapshot() const REQUIRES(bql) {
    const List* list = list_.load_as_updater();
    return list == nullptr ? List() : *list;
  }

 private:
  void publish(std::unique_ptr<const List> next) REQUIRES(bql) {
    Reclaim::retire(std::unique_ptr<const List>(list_.exchange(next.release())));
  }

  RcuPtr<const List> list_;
};

}  // namespace rhea::memory
