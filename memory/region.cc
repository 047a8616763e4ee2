#include "memory/region.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "memory/internal/region_impl.h"
#include "memory/topology.h"
#include "util/check.h"

namespace rhea::memory {
namespace {

bool is_access_size(unsigned size) { return std::has_single_bit(size) && size <= 8; }

void check_access(const std::string& name, const IoAccess& a, uint64_t size_bytes) {
  for (const unsigned size : {a.min_size, a.max_size, a.impl_min, a.impl_max}) {
    RHEA_CHECK(is_access_size(size), "region {}: access size {}", name, size);
  }
  RHEA_CHECK(a.min_size <= a.max_size && a.impl_min <= a.impl_max, "region {}: access sizes", name);
  RHEA_CHECK(size_bytes % a.impl_min == 0, "region {}: size {} against impl_min {}", name,
             size_bytes, a.impl_min);
}

}  // namespace

MemoryRegion::MemoryRegion(std::string name, uint64_t size_bytes)
    : impl_(std::make_unique<Impl>(std::move(name), size_bytes, Impl::Kind::kContainer)) {}

MemoryRegion::MemoryRegion(std::string name, uint64_t size_bytes, IoHandler& handler,
                           IoAccess access, IoLocking locking)
    : impl_(std::make_unique<Impl>(std::move(name), size_bytes, Impl::Kind::kIo)) {
  check_access(impl_->name, access, size_bytes);
  impl_->handler = &handler;
  impl_->access = access;
  impl_->locking = locking;
}

MemoryRegion::MemoryRegion(std::string name, std::shared_ptr<RamBlock> ram, RamMode mode)
    : impl_(std::make_unique<Impl>(std::move(name), ram->size_bytes(), Impl::Kind::kRam)) {
  impl_->ram = std::move(ram);
  impl_->mode = mode;
}

MemoryRegion::MemoryRegion(std::string name, MemoryRegion& target, uint64_t offset,
                           uint64_t size_bytes, RamMode mode)
    : impl_(std::make_unique<Impl>(std::move(name), size_bytes, Impl::Kind::kAlias)) {
  impl_->target = &target;
  impl_->target_offset = offset;
  impl_->mode = mode;
}

MemoryRegion::~MemoryRegion() {
  // Without the BQL: nobody else can reach a subtree that no address space shows, and the RCU
  // thread must be able to destroy one.
  const MemoryRegion* top = this;
  while (top->impl_->container != nullptr) top = top->impl_->container;
  RHEA_CHECK(top->impl_->address_spaces == 0, "region {} is destroyed while {} shows it",
             impl_->name, top->impl_->name);
  for (MemoryRegion* child : impl_->children) child->impl_->container = nullptr;
  if (impl_->container != nullptr) std::erase(impl_->container->impl_->children, this);
}

MemoryRegion* MemoryRegion::Impl::top() {
  MemoryRegion* region = container;
  while (region != nullptr && region->impl_->container != nullptr) {
    region = region->impl_->container;
  }
  return region;
}

void MemoryRegion::Impl::insert_child(MemoryRegion& child) {
  const auto place = std::ranges::find_if(children, [&](const MemoryRegion* other) {
    bql.assert_held();
    return other->impl_->priority <= child.impl_->priority;
  });
  children.insert(place, &child);
}

void MemoryRegion::set_owner(std::weak_ptr<const void> owner) {
  bql.assert_held();
  RHEA_CHECK(impl_->container == nullptr, "region {} has a container", impl_->name);
  impl_->owner = std::move(owner);
}

void MemoryRegion::add(MemoryRegion& child, uint64_t offset, int priority) {
  MemoryTransaction transaction;
  RHEA_CHECK(impl_->kind != Impl::Kind::kAlias, "alias {} cannot contain", impl_->name);
  RHEA_CHECK(child.impl_->container == nullptr, "region {} has a container", child.name());
  RHEA_CHECK(&child != this && impl_->top() != &child, "region {} would contain itself",
             child.name());
  child.impl_->container = this;
  child.impl_->offset = offset;
  child.impl_->priority = priority;
  impl_->insert_child(child);
  topology.note_change();
}

void MemoryRegion::remove(MemoryRegion& child) {
  MemoryTransaction transaction;
  RHEA_CHECK(child.impl_->container == this, "region {} is not in {}", child.name(), impl_->name);
  std::erase(impl_->children, &child);
  child.impl_->container = nullptr;
  topology.note_change();
}

void MemoryRegion::set_enabled(bool enabled) {
  MemoryTransaction transaction;
  if (impl_->enabled == enabled) return;
  impl_->enabled = enabled;
  topology.note_change();
}

void MemoryRegion::set_offset(uint64_t offset) {
  MemoryTransaction transaction;
  if (impl_->offset == offset) return;
  impl_->offset = offset;
  topology.note_change();
}

void MemoryRegion::set_window(uint64_t offset, uint64_t size_bytes) {
  MemoryTransaction transaction;
  RHEA_CHECK(impl_->kind == Impl::Kind::kAlias, "region {} is no alias", impl_->name);
  if (impl_->target_offset == offset && impl_->size_bytes == size_bytes) return;
  impl_->target_offset = offset;
  impl_->size_bytes = size_bytes;
  topology.note_change();
}

Result<void> MemoryRegion::add_doorbell(const Doorbell& doorbell) {
  MemoryTransaction transaction;
  RHEA_CHECK(impl_->kind == Impl::Kind::kIo, "region {} has no handler", impl_->name);
  RHEA_CHECK(doorbell.size_bytes == 0 || is_access_size(doorbell.size_bytes), "doorbell size {}",
             doorbell.size_bytes);
  for (const auto& other : impl_->doorbells) {
    if (other.doorbell == doorbell) {
      return fail(ErrorKind::kExists, "region {} has this doorbell at {:#x} already", impl_->name,
                  doorbell.offset);
    }
  }
  const int copy = ::fcntl(doorbell.fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail_errno(errno, "doorbell of region {}", impl_->name);
  impl_->doorbells.push_back({doorbell, std::make_shared<const Fd>(copy)});
  topology.note_change();
  return ok();
}

void MemoryRegion::remove_doorbell(const Doorbell& doorbell) {
  MemoryTransaction transaction;
  const auto removed = std::erase_if(impl_->doorbells,
                                     [&](const auto& other) { return other.doorbell == doorbell; });
  RHEA_CHECK(removed == 1, "region {} has no such doorbell at {:#x}", impl_->name, doorbell.offset);
  topology.note_change();
}

const std::string& MemoryRegion::name() const noexcept { return impl_->name; }

uint64_t MemoryRegion::size_bytes() const noexcept { return impl_->size_bytes; }

MemoryTransaction::MemoryTransaction() { topology.begin_transaction(); }

MemoryTransaction::~MemoryTransaction() { topology.end_transaction(); }

}  // namespace rhea::memory
