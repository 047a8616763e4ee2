// Stand-in for memory/region.cc until it lands.
#include "memory/region.h"

namespace rhea::memory {
struct MemoryRegion::Impl {
  std::string name;
  uint64_t size;
};
MemoryRegion::MemoryRegion(std::string name, uint64_t size) : impl_(new Impl{name, size}) {}
MemoryRegion::MemoryRegion(std::string name, uint64_t size, IoHandler&, IoAccess, IoLocking)
    : impl_(new Impl{name, size}) {}
MemoryRegion::~MemoryRegion() = default;
void MemoryRegion::set_owner(std::weak_ptr<const void>) {}
}  // namespace rhea::memory
