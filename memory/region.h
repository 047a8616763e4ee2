// MemoryRegion: the tree from which a guest's address spaces are made.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "memory/guest_addr.h"
#include "memory/io_handler.h"
#include "util/bql.h"
#include "util/error.h"

namespace rhea::memory {

class RamBlock;

/// A node of the tree: container, RAM, ROM, I/O or alias. Embedded in the object that implements
/// it (a device, the machine).
///
/// Thread: the tree changes only under the BQL. Readers never see it: they see the FlatView that
/// a change publishes. Lifetime: a FlatView pins the region's owner (see set_owner), so a region
/// may be removed from the tree and its device dropped at once; the memory goes after a grace
/// period. A subtree that no address space reaches may be destroyed on any thread, in any order.
/// Invariants: a region is in at most one container; overlaps are decided by priority within the
/// container (higher wins; among equals the one added last); children lie above the container's
/// own RAM or I/O.
/// Units: bytes. The largest size, UINT64_MAX, stands for "all addresses but the last".
class MemoryRegion {
 public:
  /// A pure container: what no child covers shows what lies below it.
  MemoryRegion(std::string name, uint64_t size_bytes);
  MemoryRegion(std::string name, uint64_t size_bytes, IoHandler& handler, IoAccess access = {},
               IoLocking locking = IoLocking::kBql);
  /// RAM, or ROM if `read_only` (guest writes are dropped and traced).
  enum class RamMode : uint8_t { kReadWrite, kReadOnly };
  MemoryRegion(std::string name, std::shared_ptr<RamBlock> ram, RamMode mode = RamMode::kReadWrite);
  /// A window onto [offset, offset + size) of `target`, which must outlive it. A read-only window
  /// shows RAM as ROM; I/O behind it is not affected.
  MemoryRegion(std::string name, MemoryRegion& target, uint64_t offset, uint64_t size_bytes,
               RamMode mode = RamMode::kReadWrite);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  /// The object that must stay alive while a FlatView shows this region. Unset: lives as long as
  /// the process's machine. Set before the region is added anywhere.
  void set_owner(std::weak_ptr<const void> owner) REQUIRES(bql);

  void add(MemoryRegion& child, uint64_t offset, int priority = 0) REQUIRES(bql);
  void remove(MemoryRegion& child) REQUIRES(bql);
  void set_enabled(bool enabled) REQUIRES(bql);
  /// Moves this region within its container.
  void set_offset(uint64_t offset) REQUIRES(bql);
  /// Aliases only: shows [offset, offset + size) of the target from now on.
  void set_window(uint64_t offset, uint64_t size_bytes) REQUIRES(bql);

  /// Signals `fd` in place of calling the handler for a write of `size` bytes at `offset` (and of
  /// `match` only, if given). size 0 matches any width.
  struct Doorbell {
    uint64_t offset = 0;
    uint8_t size_bytes = 0;
    std::optional<uint64_t> match;
    int fd = -1;
    friend bool operator==(const Doorbell&, const Doorbell&) = default;
  };
  /// I/O regions only. The region signals a duplicate of `fd`, so the caller may close its own as
  /// soon as the doorbell is removed, whatever readers of an older view still do.
  /// Errors: kExists for a doorbell that is there already; the host refuses the duplicate.
  Result<void> add_doorbell(const Doorbell& doorbell) REQUIRES(bql);
  void remove_doorbell(const Doorbell& doorbell) REQUIRES(bql);

  const std::string& name() const noexcept;
  /// Constant but for an alias, whose size changes under the BQL.
  uint64_t size_bytes() const noexcept;

 private:
  friend class FlatViewBuilder;
  friend class AddressSpaceState;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Groups changes: listeners and readers see one change when the outermost transaction ends.
class MemoryTransaction {
 public:
  MemoryTransaction() REQUIRES(bql);
  ~MemoryTransaction() REQUIRES(bql);
  MemoryTransaction(const MemoryTransaction&) = delete;
  MemoryTransaction& operator=(const MemoryTransaction&) = delete;
};

}  // namespace rhea::memory
