#include "migration/leaving_ram.h"

namespace rhea::migration {

LeavingRam::LeavingRam(std::span<const RamView> ram) {
  for (const RamView& view : ram) {
    by_block_.emplace_back();
    // Of anonymous memory a look shows the host's one page of zeros, and is cheaper than to ask.
    if (view.block != nullptr && view.block->fd() >= 0)
      by_block_.back() = memory::Holes::of(*view.block);
  }
}

void LeavingRam::begin(uint32_t block) {
  holes_ = by_block_[block] ? &*by_block_[block] : nullptr;
  if (holes_ != nullptr) holes_->refresh();
}

}  // namespace rhea::migration
