// RegisteredRam: lets the rings of the process keep the guest's RAM pinned.
#pragma once

#include <map>
#include <optional>

#include "memory/listener.h"
#include "memory/ram_block.h"
#include "util/bql.h"
#include "util/registered_memory.h"

namespace rhea::vmm {

/// Offers to every io_uring the RAM that the address space shows and that was preallocated: pinning
/// any other would make the host find all of it.
///
/// Thread: BQL (the listener's contract). Owns: a reference to each block that it offers.
class RegisteredRam final : public memory::MemoryListener {
 public:
  void region_add(const memory::Section& section) override;
  void region_del(const memory::Section& section) override;
  void commit() override;

 private:
  struct Block {
    unsigned sections = 0;  // that show it
    std::optional<RegisteredMemory> memory;
  };
  std::map<memory::RamBlock*, Block> blocks_ GUARDED_BY(bql);
};

}  // namespace rhea::vmm
