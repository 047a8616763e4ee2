#include "memory/flat_view.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <tuple>

#include "memory/internal/region_impl.h"
#include "memory/topology.h"
#include "util/check.h"
#include "util/rcu.h"

namespace rhea::memory {
namespace {

// Region offsets may point below zero and beyond 2^64 before they are clipped.
__extension__ using Wide = __int128;

constexpr unsigned kMaxDepth = 64;  // deeper means that an alias shows its own container

std::atomic<uint64_t> next_view_id = 1;  // 0 is the empty slot of a last-hit cache

uint64_t narrow(Wide value) { return static_cast<uint64_t>(value); }

}  // namespace

// Walks the tree from what wins to what loses and gives each region what is still free.
class FlatViewBuilder {
 public:
  std::unique_ptr<const FlatView> build(MemoryRegion& root) REQUIRES(bql) {
    const Wide all = std::numeric_limits<uint64_t>::max();
    render(root, 0, Clip{0, all}, MemoryRegion::RamMode::kReadWrite, 0);
    merge();
    pin();
    place_doorbells();
    return std::move(view_);
  }

 private:
  using Impl = MemoryRegion::Impl;
  struct Clip {
    Wide low;
    Wide high;
  };

  /// Shows `region`, whose byte 0 lies at `base`, within `clip`.
  void render(const MemoryRegion& region, Wide base, Clip clip, MemoryRegion::RamMode mode,
              unsigned depth) REQUIRES(bql) {
    const Impl& impl = *region.impl_;
    RHEA_CHECK(depth < kMaxDepth, "region {} shows itself", impl.name);
    if (!impl.enabled) return;
    clip.low = std::max(clip.low, base);
    clip.high = std::min(clip.high, base + Wide{impl.size_bytes});
    if (clip.low >= clip.high) return;
    const bool read_only = impl.mode == MemoryRegion::RamMode::kReadOnly;
    const auto own_mode = read_only ? MemoryRegion::RamMode::kReadOnly : mode;
    if (impl.kind == Impl::Kind::kAlias) {
      // The target's place in its own container does not matter here, its own switch does.
      render(*impl.target, base - Wide{impl.target_offset}, clip, own_mode, depth + 1);
      return;
    }
    for (const MemoryRegion* child : impl.children) {
      render(*child, base + Wide{child->impl_->offset}, clip, mode, depth + 1);
    }
    if (impl.kind != Impl::Kind::kContainer) fill(region, base, clip, own_mode);
  }

  FlatRange piece(const MemoryRegion& region, Wide base, uint64_t low, uint64_t high,
                  MemoryRegion::RamMode mode) {
    const Impl& impl = *region.impl_;
    const uint64_t offset = narrow(Wide{low} - base);
    FlatRange range;
    range.base = low;
    range.size_bytes = high - low;
    range.region = &region;
    range.offset_in_region = offset;
    if (impl.kind == Impl::Kind::kRam) {
      range.ram = impl.ram.get();
      range.offset_in_ram = offset;
      range.read_only = mode == MemoryRegion::RamMode::kReadOnly;
    } else {
      range.handler = impl.handler;
      range.access = impl.access;
      range.locking = impl.locking;
    }
    return range;
  }

  /// Adds the parts of [clip.low, clip.high) that nothing covers yet.
  void fill(const MemoryRegion& region, Wide base, Clip clip, MemoryRegion::RamMode mode) {
    const uint64_t high = narrow(clip.high);
    uint64_t low = narrow(clip.low);
    auto& ranges = view_->ranges_;
    auto next = std::ranges::upper_bound(ranges, low, {}, &FlatRange::end);
    while (low < high) {
      const uint64_t gap_end = next == ranges.end() ? high : std::min(high, next->base);
      if (low < gap_end) {
        next = ranges.insert(next, piece(region, base, low, gap_end, mode)) + 1;
      }
      if (next == ranges.end()) return;
      low = std::max(low, next->end());
      ++next;
    }
  }

  static bool continues(const FlatRange& a, const FlatRange& b) {
    FlatRange wanted = a;
    wanted.base = a.end();
    wanted.offset_in_region += a.size_bytes;
    if (a.ram != nullptr) wanted.offset_in_ram += a.size_bytes;
    wanted.size_bytes = b.size_bytes;
    return wanted == b;
  }

  void merge() {
    std::vector<FlatRange> merged;
    for (const FlatRange& range : view_->ranges_) {
      if (!merged.empty() && continues(merged.back(), range)) {
        merged.back().size_bytes += range.size_bytes;
      } else {
        merged.push_back(range);
      }
    }
    view_->ranges_ = std::move(merged);
  }

  void pin() REQUIRES(bql) {
    auto& pins = view_->pins_;
    for (const FlatRange& range : view_->ranges_) {
      const Impl& impl = *range.region->impl_;
      if (impl.ram != nullptr) pins.push_back(impl.ram);
      if (!impl.owner.has_value()) continue;
      pins.push_back(impl.owner->lock());
      RHEA_CHECK(pins.back() != nullptr, "region {} outlived its owner", impl.name);
    }
    const auto address = [](const auto& pin) { return pin.get(); };
    std::ranges::sort(pins, {}, address);
    const auto repeated = std::ranges::unique(pins, {}, address);
    pins.erase(repeated.begin(), repeated.end());
    pins.shrink_to_fit();
  }

  void place_doorbells() REQUIRES(bql) {
    for (FlatRange& range : view_->ranges_) {
      for (const auto& owned : range.region->impl_->doorbells) {
        const uint64_t offset = owned.doorbell.offset;
        const uint64_t size = std::max<uint64_t>(owned.doorbell.size_bytes, 1);
        const uint64_t limit = range.offset_in_region + range.size_bytes;
        if (offset < range.offset_in_region || offset > limit || limit - offset < size) continue;
        range.has_doorbells = true;
        view_->doorbells_.push_back({.address = range.base + (offset - range.offset_in_region),
                                     .doorbell = owned.doorbell,
                                     .range = &range,
                                     .event = owned.event});
      }
    }
    const auto key = [](const FlatDoorbell& d) {
      return std::tuple(d.address, d.doorbell.size_bytes, d.doorbell.match, d.doorbell.fd);
    };
    std::ranges::sort(view_->doorbells_, {}, key);
  }

  std::unique_ptr<FlatView> view_{new FlatView};
};

// relaxed: the ids need only differ
FlatView::FlatView() : id_(next_view_id.fetch_add(1, std::memory_order_relaxed)) {}

std::unique_ptr<const FlatView> FlatView::build(MemoryRegion& root) {
  return FlatViewBuilder().build(root);
}

std::shared_ptr<const FlatView> FlatView::publishable(std::unique_ptr<const FlatView> view) {
  return {view.release(),
          [](const FlatView* dead) { rcu_retire(std::unique_ptr<const FlatView>(dead)); }};
}

const FlatRange* FlatView::find(uint64_t address) const noexcept {
  // A thread works on two or three address spaces at a time; one slot each, found by the id's low
  // bits, is thrown out at worst by a space whose id collides.
  struct Hit {
    uint64_t view_id = 0;
    const FlatRange* range = nullptr;
  };
  constexpr size_t kSlots = 4;
  static thread_local std::array<Hit, kSlots> t_hits;
  Hit& hit = t_hits[id_ % kSlots];
  if (hit.view_id == id_ && hit.range->contains(address)) return hit.range;
  const auto after = std::ranges::upper_bound(ranges_, address, {}, &FlatRange::base);
  if (after == ranges_.begin() || !(after - 1)->contains(address)) return nullptr;
  hit = {id_, &*(after - 1)};
  return hit.range;
}

uint64_t FlatView::gap_bytes(uint64_t address, uint64_t limit) const noexcept {
  const auto after = std::ranges::upper_bound(ranges_, address, {}, &FlatRange::base);
  return after == ranges_.end() ? limit : std::min(limit, after->base - address);
}

int FlatView::doorbell_for(uint64_t address, uint64_t value, unsigned size) const noexcept {
  auto doorbell = std::ranges::lower_bound(doorbells_, address, {}, &FlatDoorbell::address);
  for (; doorbell != doorbells_.end() && doorbell->address == address; ++doorbell) {
    const MemoryRegion::Doorbell& wanted = doorbell->doorbell;
    if (wanted.size_bytes != 0 && wanted.size_bytes != size) continue;
    if (wanted.match.has_value() && *wanted.match != value) continue;
    return doorbell->event->get();
  }
  return -1;
}

bool FlatView::same_as(const FlatView& other) const {
  return ranges_ == other.ranges_ &&
         std::ranges::equal(doorbells_, other.doorbells_,
                            [](const auto& a, const auto& b) { return a.same_as(b); });
}

Section make_section(const FlatRange& range) {
  return Section{.region = range.region,
                 .base = GuestAddr{range.base},
                 .size_bytes = range.size_bytes,
                 .offset_in_region = range.offset_in_region,
                 .ram = range.ram,
                 .offset_in_ram = range.offset_in_ram,
                 .read_only = range.read_only,
                 .dirty_logging = range.ram != nullptr && topology.dirty_logging()};
}

}  // namespace rhea::memory
