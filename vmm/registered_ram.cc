#include "vmm/registered_ram.h"

namespace rhea::vmm {

void RegisteredRam::region_add(const memory::Section& section) {
  bql.assert_held();
  if (section.ram != nullptr && section.ram->preallocated()) ++blocks_[section.ram].sections;
}

void RegisteredRam::region_del(const memory::Section& section) {
  bql.assert_held();
  if (const auto at = blocks_.find(section.ram); at != blocks_.end()) --at->second.sections;
}

/// Only now: a change that cuts a section in two deletes it first.
void RegisteredRam::commit() {
  bql.assert_held();
  std::erase_if(blocks_, [](const auto& entry) { return entry.second.sections == 0; });
  for (auto& [ram, block] : blocks_) {
    if (!block.memory) block.memory.emplace(ram->bytes(), ram->shared_from_this());
  }
}

}  // namespace rhea::vmm
