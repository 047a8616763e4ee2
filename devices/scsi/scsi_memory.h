// ScsiMemory: the first bytes of an initiator's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "block/io_vector.h"

namespace rhea::devices {

/// As much of `memory` as a command uses. Initiators make it as large as the data, as a rule, and
/// then this costs nothing. Units: bytes.
class ScsiMemory {
 public:
  ScsiMemory(block::IoVector memory, uint64_t bytes) : view_(memory) {
    if (memory.size == bytes) [[likely]]
      return;
    pieces_.resize(memory.pieces.size());
    const size_t count = memory.slice(0, bytes, pieces_);
    view_ = {std::span<const iovec>(pieces_).first(count), bytes};
  }
  ScsiMemory(const ScsiMemory&) = delete;
  ScsiMemory& operator=(const ScsiMemory&) = delete;

  const block::IoVector& view() const noexcept { return view_; }

 private:
  std::vector<iovec> pieces_;
  block::IoVector view_;
};

}  // namespace rhea::devices
