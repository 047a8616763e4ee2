#include "memory/address_space.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "memory/flat_view.h"
#include "memory/internal/address_space_state.h"
#include "memory/internal/io_access.h"
#include "memory/internal/ram_access.h"
#include "memory/internal/view_access.h"
#include "memory/topology.h"
#include "util/check.h"
#include "util/log.h"
#include "util/rcu.h"
#include "util/sync_point.h"

namespace rhea::memory {
namespace {

/// The BQL for one access, if the region wants it and this thread does not hold it.
class RegionLock {
 public:
  // Unchecked: the analysis can not follow a lock that is taken on a condition.
  explicit RegionLock(IoLocking locking) NO_THREAD_SAFETY_ANALYSIS
      : taken_(locking == IoLocking::kBql && !bql.held()) {
    if (!taken_) return;
    RHEA_SYNC_POINT("memory:before-bql");
    bql.lock();
  }
  // Unchecked: on the same condition.
  ~RegionLock() NO_THREAD_SAFETY_ANALYSIS {
    if (taken_) bql.unlock();
  }
  RegionLock(const RegionLock&) = delete;
  RegionLock& operator=(const RegionLock&) = delete;
  bool taken() const { return taken_; }

 private:
  const bool taken_;
};

/// How wide an access to a device may be: as given, or what suits the device.
enum class Width : uint8_t { kAsGiven, kDevices };

/// The guest reads: bytes flow to `to_`.
class ReadPort {
 public:
  explicit ReadPort(std::byte* to) : to_(to) {}

  void nothing(size_t size) { take(size, ~uint64_t{0}); }
  bool rings(const FlatView&, const FlatRange&, uint64_t, size_t) const { return false; }
  AccessResult ram(const FlatRange& range, uint64_t address, size_t size) {
    internal::copy_from_ram(to_, range.host(address), size);
    to_ += size;
    return AccessResult::kOk;
  }
  void io(const FlatRange& range, uint64_t offset, unsigned size) {
    take(size, internal::read_split(*range.handler, range.access, offset, size));
  }

 private:
  void take(size_t size, uint64_t value) {
    if (size <= sizeof value) {
      std::memcpy(to_, &value, size);
    } else {
      std::memset(to_, 0xff, size);
    }
    to_ += size;
  }

  std::byte* to_;
};

/// The guest writes: bytes flow from `from_`.
class WritePort {
 public:
  explicit WritePort(const std::byte* from) : from_(from) {}

  void nothing(size_t size) { from_ += size; }
  /// Signals the doorbell for this write, if there is one. Needs no lock, as with KVM.
  bool rings(const FlatView& view, const FlatRange& range, uint64_t address, size_t size) {
    if (!range.has_doorbells) return false;
    const int fd = view.doorbell_for(address, peek(size), static_cast<unsigned>(size));
    if (fd < 0) return false;
    signal_eventfd(fd);
    from_ += size;
    return true;
  }
  AccessResult ram(const FlatRange& range, uint64_t address, size_t size) {
    const std::byte* from = std::exchange(from_, from_ + size);
    if (range.read_only) return AccessResult::kRefused;
    internal::copy_to_ram(range.host(address), from, size);
    range.ram->dirty().mark(range.offset_in_ram + (address - range.base), size);
    return AccessResult::kOk;
  }
  void io(const FlatRange& range, uint64_t offset, unsigned size) {
    const uint64_t value = peek(size);
    from_ += size;
    internal::write_split(*range.handler, range.access, offset, value, size);
  }

 private:
  uint64_t peek(size_t size) const {
    uint64_t value = 0;
    std::memcpy(&value, from_, size);
    return value;
  }

  const std::byte* from_;
};

AccessResult worse(AccessResult a, AccessResult b) { return std::max(a, b); }

// How many bytes go into one access to `range`.
size_t part_bytes(const FlatRange& range, uint64_t address, size_t size, Width width) {
  const size_t inside = std::min<uint64_t>(size, range.end() - address);
  if (range.ram != nullptr) return inside;
  if (width == Width::kAsGiven && inside == size) return size;
  const uint64_t offset = range.offset_in_region + (address - range.base);
  return internal::copy_width(range.access, offset, inside);
}

/// One access to one range. No value: the view changed before the BQL was ours, look again.
template <class Port>
std::optional<AccessResult> access_range(const AddressSpaceState& space, const FlatView& view,
                                         const FlatRange& range, uint64_t address, size_t size,
                                         Port& port) REQUIRES_SHARED(rcu) {
  if (range.ram != nullptr) {
    const AccessResult result = port.ram(range, address, size);
    if (result != AccessResult::kOk) {
      RHEA_TRACE(kMemory, "rom_write space={} region={} address={:#x} size={}", space.name(),
                 range.region->name(), address, size);
    }
    return result;
  }
  if (port.rings(view, range, address, size)) return AccessResult::kOk;
  const uint64_t offset = range.offset_in_region + (address - range.base);
  const auto width = static_cast<unsigned>(size);
  if (!internal::accepts(range.access, offset, width)) {
    port.nothing(size);
    RHEA_TRACE(kMemory, "refused space={} region={} offset={:#x} size={}", space.name(),
               range.region->name(), offset, size);
    return AccessResult::kRefused;
  }
  const RegionLock lock(range.locking);
  if (lock.taken() && space.view() != &view) return std::nullopt;
  port.io(range, offset, width);
  return AccessResult::kOk;
}

template <class Port>
AccessResult access_space(const AddressSpaceState& space, uint64_t address, size_t size,
                          Width width, Port port) REQUIRES_SHARED(rcu) {
  AccessResult worst = AccessResult::kOk;
  while (size > 0) {
    const FlatView& view = *space.view();
    const FlatRange* range = view.find(address);
    size_t done = 0;
    if (range == nullptr) [[unlikely]] {
      done = view.gap_bytes(address, size);
      port.nothing(done);
      worst = worse(worst, AccessResult::kUnassigned);
      RHEA_TRACE(kMemory, "unassigned space={} address={:#x} size={}", space.name(), address, done);
    } else {
      done = part_bytes(*range, address, size, width);
      const auto result = access_range(space, view, *range, address, done, port);
      if (!result) continue;
      worst = worse(worst, *result);
    }
    size -= done;
    address += done;
  }
  return worst;
}

void check_width(unsigned size) {
  RHEA_CHECK(std::has_single_bit(size) && size <= 8, "access of {} bytes", size);
}

}  // namespace

AddressSpace::AddressSpace(std::string name, MemoryRegion& root)
    : state_(std::make_shared<AddressSpaceState>(std::move(name), root)) {
  topology.add_space(state_);
}

AddressSpace::~AddressSpace() {
  bql.assert_held();
  topology.remove_space(*state_);
  state_->shut_down();
  rcu_retire(state_);
}

AccessResult AddressSpace::read(GuestAddr address, std::span<std::byte> data) {
  RcuReadGuard guard;
  return access_space(*state_, address.value, data.size(), Width::kDevices, ReadPort(data.data()));
}

AccessResult AddressSpace::write(GuestAddr address, std::span<const std::byte> data) {
  RcuReadGuard guard;
  return access_space(*state_, address.value, data.size(), Width::kDevices, WritePort(data.data()));
}

uint64_t AddressSpace::load(GuestAddr address, unsigned size_bytes) {
  check_width(size_bytes);
  RcuReadGuard guard;
  uint64_t value = 0;
  // Whatever became of it, the guest gets a value: all-ones where nobody answered.
  static_cast<void>(access_space(*state_, address.value, size_bytes, Width::kAsGiven,
                                 ReadPort(reinterpret_cast<std::byte*>(&value))));
  return value;
}

void AddressSpace::store(GuestAddr address, uint64_t value, unsigned size_bytes) {
  check_width(size_bytes);
  RcuReadGuard guard;
  static_cast<void>(access_space(*state_, address.value, size_bytes, Width::kAsGiven,
                                 WritePort(reinterpret_cast<const std::byte*>(&value))));
}

Result<void> AddressSpace::read_ram(GuestAddr address, std::span<std::byte> data) {
  RcuReadGuard guard;
  return internal::read_ram(*state_->view(), address, data);
}

Result<void> AddressSpace::write_ram(GuestAddr address, std::span<const std::byte> data) {
  RcuReadGuard guard;
  return internal::write_ram(*state_->view(), address, data);
}

void AddressSpace::register_listener(std::shared_ptr<MemoryListener> listener, int priority) {
  bql.assert_held();
  state_->register_listener(std::move(listener), priority);
}

void AddressSpace::unregister_listener(MemoryListener& listener) {
  bql.assert_held();
  state_->unregister_listener(listener);
}

std::shared_ptr<const FlatView> AddressSpace::pin() const { return state_->pin(); }

bool AddressSpace::is_current(const FlatView& view) const noexcept {
  const RcuReadGuard reading;
  return state_->view() == &view;  // held, so no other view has its address
}

void AddressSpace::visit_sections(void (*visit)(void*, const Section&), void* context) const {
  const auto view = pin();
  for (const FlatRange& range : view->ranges()) visit(context, make_section(range));
}

const std::string& AddressSpace::name() const noexcept { return state_->name(); }

}  // namespace rhea::memory
