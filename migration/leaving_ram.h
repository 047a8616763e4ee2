// LeavingRam: guest RAM that pages are sent out of.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "memory/holes.h"
#include "migration/multifd_packet.h"

namespace rhea::migration {

/// Knows the pages that need no look to be called zero. A look into a hole of a file on a tmpfs
/// takes memory for it, on a host that may have none; a guest's RAM would come out of its migration
/// larger than it went in.
///
/// Thread: one. The blocks outlive it.
class LeavingRam {
 public:
  explicit LeavingRam(std::span<const RamView> ram);

  /// Before the first of the pages whose dirty bits have been taken since the last call: what is
  /// stored behind this makes a page dirty again.
  void begin(uint32_t block);
  bool is_hole(uint32_t page) { return holes_ != nullptr && holes_->contains(page); }

 private:
  std::vector<std::optional<memory::Holes>> by_block_;
  memory::Holes* holes_ = nullptr;  // of the block that begin() was told
};

}  // namespace rhea::migration
