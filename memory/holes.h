// Holes: the pages of a block in which nobody has stored anything.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "memory/ram_block.h"
#include "util/fd.h"

namespace rhea::memory {

/// What the host knows of a block's memory without a look at it.
///
/// To look at a page is no way to find out: the host then maps something there, and a file on a
/// tmpfs takes memory for it, which a host that has none answers with a SIGBUS.
/// Thread: one. Owns: nothing of the block, which outlives it. Units: pages of kDirtyPageBytes.
class Holes {
 public:
  /// None if the host does not say where there are any, or not reliably.
  static std::optional<Holes> of(const RamBlock& block);

  /// Whether the page held nothing, and so zeros, at some time since the last refresh().
  bool contains(uint64_t page);
  /// What was a hole may have been stored to.
  void refresh() noexcept;

 private:
  struct Range {
    uint64_t begin = 0, end = 0;
    bool contains(uint64_t page) const noexcept { return begin <= page && page < end; }
  };

  Holes(const RamBlock& block, Fd pagemap);
  void ask_file(uint64_t page);
  bool is_mapped(uint64_t page);

  const RamBlock* block_;
  Fd pagemap_;          // of memory that is this process's own
  Range data_of_file_;  // for good: nothing punches holes
  Range hole_of_file_;  // all of it where there is no file
  Range asked_;         // what the page tables say of it is in entries_
  std::array<uint64_t, 512> entries_{};
};

}  // namespace rhea::memory
