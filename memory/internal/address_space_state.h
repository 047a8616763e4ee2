// The inside of an AddressSpace: what outlives it by a grace period.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "memory/flat_view.h"
#include "memory/listener_set.h"
#include "util/error.h"
#include "util/rcu.h"

namespace rhea::memory {

/// Thread: changed under the BQL; view and listeners are read in a read section by any thread.
class AddressSpaceState {
 public:
  AddressSpaceState(std::string name, MemoryRegion& root) REQUIRES(bql);

  const std::string& name() const noexcept { return name_; }
  MemoryRegion& root() const noexcept { return root_; }

  const FlatView* view() const REQUIRES_SHARED(rcu) { return view_.load(); }
  const FlatView& view_as_updater() const REQUIRES(bql) { return *view_.load_as_updater(); }
  /// A strong reference to the present view.
  std::shared_ptr<const FlatView> pin() const;

  /// Publishes `next` and tells the listeners the difference; drops it if there is none.
  void update(const std::shared_ptr<const FlatView>& next) REQUIRES(bql);
  /// Errors: the first listener's that refuses; those behind it are not told.
  Result<void> tell_log_start() REQUIRES(bql);
  void tell_log_stop() REQUIRES(bql);
  /// Unregisters everybody and lets go of the view: readers may still be in it.
  void shut_down() REQUIRES(bql);

  void register_listener(std::shared_ptr<MemoryListener> listener, int priority) REQUIRES(bql);
  void unregister_listener(MemoryListener& listener) REQUIRES(bql);

  void sync_dirty_log() const REQUIRES_SHARED(rcu);
  void clear_dirty_log(const RamBlock& ram, uint64_t offset, uint64_t size_bytes) const
      REQUIRES_SHARED(rcu);

 private:
  const std::string name_;
  MemoryRegion& root_;
  RcuPtr<const FlatView> view_;
  std::shared_ptr<const FlatView> owner_ GUARDED_BY(bql);  // of what view_ points to
  ListenerSet<> listeners_;
};

}  // namespace rhea::memory
