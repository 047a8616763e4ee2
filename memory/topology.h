// Topology: the process's address spaces, the transaction that is open, and who logs dirty pages.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/dirty_bitmap.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/rcu.h"

namespace rhea::memory {

class AddressSpace;
class AddressSpaceState;
class RamBlock;

/// What is common to all address spaces. One per process, like the BQL and for its reason: a
/// process runs one machine, and a change of the tree may show in any of its address spaces.
///
/// Thread: transactions and switches under the BQL; sync and clear on any registered thread,
/// without it. Invariants: the list of address spaces is an immutable vector that updaters replace
/// and RCU frees. No address space is created or destroyed while listeners are being told.
class Topology {
 public:
  constexpr Topology() = default;
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;

  /// Starts marking for `client` in every RamBlock and tells the listeners (log_start). When it
  /// returns, any store made by an accessor is either visible to all threads or will be marked.
  /// The client's old bits stay: it sets or clears them itself.
  /// Errors: kUnsupported if the host lacks membarrier(2); kBusy if the client logs already; a
  /// listener's. What was on before is on then, and nothing else.
  Result<void> start_dirty_log(DirtyClient client) REQUIRES(bql);
  void stop_dirty_log(DirtyClient client) REQUIRES(bql);
  /// Whether anybody logs.
  bool dirty_logging() const noexcept;

  /// Asks every listener of every address space for the dirty pages that only it knows (log_sync).
  void sync_dirty_log();
  /// Has every listener re-arm its tracking of [offset, offset + size) of `ram` (log_clear). Call
  /// it after clearing the bits and before reading the data.
  void clear_dirty_log(const RamBlock& ram, uint64_t offset, uint64_t size_bytes);

 private:
  friend class AddressSpace;
  friend class AddressSpaceState;
  friend class MemoryRegion;
  friend class MemoryTransaction;
  using Spaces = std::vector<std::shared_ptr<AddressSpaceState>>;

  /// While one lives, listeners are being told something, and the tree may not change.
  class Telling {
   public:
    explicit Telling(Topology& t) REQUIRES(bql) : topology_(t) { ++topology_.telling_; }
    ~Telling() REQUIRES(bql) { --topology_.telling_; }
    Telling(const Telling&) = delete;
    Telling& operator=(const Telling&) = delete;

   private:
    Topology& topology_;
  };

  void begin_transaction() REQUIRES(bql);
  void end_transaction() REQUIRES(bql);
  void note_change() REQUIRES(bql);
  void commit() REQUIRES(bql);
  void add_space(std::shared_ptr<AddressSpaceState> space) REQUIRES(bql);
  void remove_space(const AddressSpaceState& space) REQUIRES(bql);
  Spaces snapshot() const REQUIRES(bql);
  void publish(Spaces next) REQUIRES(bql);
  Result<void> tell_log_start() REQUIRES(bql);
  void tell_log_stop() REQUIRES(bql);

  RcuPtr<const Spaces> spaces_;
  unsigned depth_ GUARDED_BY(bql) = 0;
  bool changed_ GUARDED_BY(bql) = false;
  unsigned telling_ GUARDED_BY(bql) = 0;  // nests: a callback may unregister a listener
};

extern Topology topology;

}  // namespace rhea::memory
