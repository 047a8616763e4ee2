#include "util/registered_memory.h"

#include <algorithm>
#include <utility>

#include "util/check.h"
#include "util/internal/memory_ranges.h"
#include "util/mutex.h"

namespace rhea {
namespace {

struct Registry {
  internal::MemoryRanges ranges;
  std::vector<Bh*> followers;

  void tell() const {
    for (Bh* changed : followers) changed->schedule();
  }
};
Guarded<Registry> registry;

bool overlap(std::span<std::byte> a, std::span<std::byte> b) {
  return std::less<>()(a.data(), b.data() + b.size()) &&
         std::less<>()(b.data(), a.data() + a.size());
}

}  // namespace

RegisteredMemory::RegisteredMemory(std::span<std::byte> bytes, std::shared_ptr<const void> keeper)
    : range_(std::make_shared<internal::MemoryRange>(bytes, std::move(keeper))) {
  registry.with([this](Registry& r) {
    for (const auto& other : r.ranges) {
      RHEA_CHECK(!overlap(range_->bytes, other->bytes), "memory is registered twice");
    }
    r.ranges.push_back(range_);
    r.tell();
  });
}

RegisteredMemory::~RegisteredMemory() {
  registry.with([this](Registry& r) {
    std::erase(r.ranges, range_);
    r.tell();
  });
}

namespace internal {

MemoryRanges memory_ranges() {
  return registry.with([](const Registry& r) { return r.ranges; });
}

MemoryFollower::MemoryFollower(Bh& changed) : changed_(changed) {
  registry.with([&changed](Registry& r) { r.followers.push_back(&changed); });
}

MemoryFollower::~MemoryFollower() {
  registry.with([this](Registry& r) { std::erase(r.followers, &changed_); });
}

}  // namespace internal
}  // namespace rhea
