// The inside of a MemoryRegion: read by whoever flattens the tree.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/ram_block.h"
#include "memory/region.h"
#include "util/fd.h"

namespace rhea::memory {

struct MemoryRegion::Impl {
  enum class Kind : uint8_t { kContainer, kRam, kIo, kAlias };

  struct OwnedDoorbell {
    Doorbell doorbell;
    std::shared_ptr<const Fd> event;  // shared with the views that show it
  };

  Impl(std::string region_name, uint64_t region_size, Kind region_kind)
      : name(std::move(region_name)), kind(region_kind), size_bytes(region_size) {}

  MemoryRegion* top() REQUIRES(bql);
  void insert_child(MemoryRegion& child) REQUIRES(bql);

  const std::string name;
  const Kind kind;
  uint64_t size_bytes;  // an alias's changes under the BQL

  // kRam
  std::shared_ptr<RamBlock> ram;
  RamMode mode = RamMode::kReadWrite;  // kAlias too
  // kIo
  IoHandler* handler = nullptr;
  IoAccess access;
  IoLocking locking = IoLocking::kBql;
  std::vector<OwnedDoorbell> doorbells GUARDED_BY(bql);
  // kAlias
  MemoryRegion* target = nullptr;
  uint64_t target_offset GUARDED_BY(bql) = 0;

  std::optional<std::weak_ptr<const void>> owner GUARDED_BY(bql);
  MemoryRegion* container GUARDED_BY(bql) = nullptr;
  uint64_t offset GUARDED_BY(bql) = 0;
  int priority GUARDED_BY(bql) = 0;
  bool enabled GUARDED_BY(bql) = true;
  std::vector<MemoryRegion*> children GUARDED_BY(bql);  // the one that wins first
  unsigned address_spaces GUARDED_BY(bql) = 0;          // of which this is the root
};

}  // namespace rhea::memory
