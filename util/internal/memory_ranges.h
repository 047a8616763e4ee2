// The process's registered memory, and the rings that follow what it is.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "util/aio_context.h"

namespace rhea::internal {

/// What one RegisteredMemory says.
struct MemoryRange {
  std::span<std::byte> bytes;
  std::shared_ptr<const void> keeper;
};
using MemoryRanges = std::vector<std::shared_ptr<const MemoryRange>>;

/// The ranges of all RegisteredMemory that live. Any thread.
MemoryRanges memory_ranges();

/// Schedules `changed` after each change of memory_ranges(), from the construction on.
/// Thread: made and destroyed on the home thread of the Bh, which outlives it.
class MemoryFollower {
 public:
  explicit MemoryFollower(Bh& changed);
  ~MemoryFollower();
  MemoryFollower(const MemoryFollower&) = delete;
  MemoryFollower& operator=(const MemoryFollower&) = delete;

 private:
  Bh& changed_;
};

}  // namespace rhea::internal
