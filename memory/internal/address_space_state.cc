#include "memory/internal/address_space_state.h"

#include <algorithm>
#include <ranges>

#include "memory/internal/region_impl.h"
#include "memory/topology.h"
#include "util/check.h"

namespace rhea::memory {
namespace {

using Nodes = ListenerSet<>::List;

// Calls a listener's method, in priority order or against it, skipping those that a callback of
// this same change has unregistered.
template <class Range, class... Parameters, class... Arguments>
void tell(Range&& nodes, void (MemoryListener::*method)(Parameters...),
          const Arguments&... arguments) {
  for (const auto& node : nodes) {
    if (!node->is_dead()) ((*node->listener).*method)(arguments...);
  }
}

bool in_view(const FlatView& view, const FlatRange& range) {
  const auto found = std::ranges::lower_bound(view.ranges(), range.base, {}, &FlatRange::base);
  if (found == view.ranges().end()) return false;
  FlatRange same = range;
  same.has_doorbells = found->has_doorbells;  // doorbells are told by themselves
  return *found == same;
}

bool in_view(const FlatView& view, const FlatDoorbell& doorbell) {
  const auto all = view.doorbells();
  auto found = std::ranges::lower_bound(all, doorbell.address, {}, &FlatDoorbell::address);
  for (; found != all.end() && found->address == doorbell.address; ++found) {
    if (found->same_as(doorbell)) return true;
  }
  return false;
}

// Tells what is in `before` and not in `after`.
void tell_deletions(const Nodes& nodes, const FlatView& before, const FlatView* after) {
  for (const auto& doorbell : before.doorbells() | std::views::reverse) {
    if (after != nullptr && in_view(*after, doorbell)) continue;
    tell(nodes | std::views::reverse, &MemoryListener::doorbell_del, make_section(*doorbell.range),
         doorbell.doorbell);
  }
  for (const auto& range : before.ranges() | std::views::reverse) {
    if (after != nullptr && in_view(*after, range)) continue;
    tell(nodes | std::views::reverse, &MemoryListener::region_del, make_section(range));
  }
}

// Tells what is in `after` and not in `before`.
void tell_additions(const Nodes& nodes, const FlatView* before, const FlatView& after) {
  for (const auto& range : after.ranges()) {
    if (before != nullptr && in_view(*before, range)) continue;
    tell(nodes, &MemoryListener::region_add, make_section(range));
  }
  for (const auto& doorbell : after.doorbells()) {
    if (before != nullptr && in_view(*before, doorbell)) continue;
    tell(nodes, &MemoryListener::doorbell_add, make_section(*doorbell.range), doorbell.doorbell);
  }
}

// Tells of the dirty log until somebody refuses.
Result<void> start_log(const Nodes& nodes, const FlatView& view) {
  for (const auto& range : view.ranges()) {
    if (range.ram == nullptr) continue;
    const Section section = make_section(range);
    for (const auto& node : nodes) {
      if (!node->is_dead()) TRY(node->listener->log_start(section));
    }
  }
  return ok();
}

}  // namespace

AddressSpaceState::AddressSpaceState(std::string name, MemoryRegion& root)
    : name_(std::move(name)), root_(root), owner_(FlatView::publishable(FlatView::build(root))) {
  view_.exchange(owner_.get());
  ++root_.impl_->address_spaces;
}

std::shared_ptr<const FlatView> AddressSpaceState::pin() const {
  RcuReadGuard guard;
  while (true) {
    // Fails only if a newer view was published since the load, which the next round finds.
    if (auto pinned = view_.load()->weak_from_this().lock()) return pinned;
  }
}

void AddressSpaceState::update(const std::shared_ptr<const FlatView>& next) {
  if (next->same_as(*owner_)) return;
  const Topology::Telling telling(topology);
  const Nodes nodes = listeners_.snapshot();
  tell(nodes, &MemoryListener::begin);
  tell_deletions(nodes, *owner_, next.get());
  view_.exchange(next.get());
  const std::shared_ptr<const FlatView> before = std::exchange(owner_, next);
  tell_additions(nodes, before.get(), *next);
  tell(nodes, &MemoryListener::commit);
}

Result<void> AddressSpaceState::tell_log_start() {
  const Nodes nodes = listeners_.snapshot();
  if (nodes.empty()) return ok();
  const Topology::Telling telling(topology);
  tell(nodes, &MemoryListener::begin);
  auto started = start_log(nodes, *owner_);
  tell(nodes, &MemoryListener::commit);
  return started;
}

void AddressSpaceState::tell_log_stop() {
  const Nodes nodes = listeners_.snapshot();
  if (nodes.empty()) return;
  const Topology::Telling telling(topology);
  tell(nodes, &MemoryListener::begin);
  for (const auto& range : owner_->ranges()) {
    if (range.ram != nullptr) tell(nodes, &MemoryListener::log_stop, make_section(range));
  }
  tell(nodes, &MemoryListener::commit);
}

void AddressSpaceState::shut_down() {
  for (const auto& node : listeners_.snapshot() | std::views::reverse) {
    unregister_listener(*node->listener);
  }
  --root_.impl_->address_spaces;
  owner_.reset();
}

void AddressSpaceState::register_listener(std::shared_ptr<MemoryListener> listener, int priority) {
  const Topology::Telling telling(topology);
  MemoryListener& added = *listener;
  listeners_.add(std::move(listener), priority);
  Nodes nodes = listeners_.snapshot();
  std::erase_if(nodes, [&](const auto& node) { return node->listener.get() != &added; });
  tell(nodes, &MemoryListener::begin);
  tell_additions(nodes, nullptr, *owner_);
  tell(nodes, &MemoryListener::commit);
}

void AddressSpaceState::unregister_listener(MemoryListener& listener) {
  Nodes nodes = listeners_.snapshot();
  std::erase_if(nodes, [&](const auto& node) { return node->listener.get() != &listener; });
  RHEA_CHECK(nodes.size() == 1, "the listener is not registered with {}", name_);
  const Topology::Telling telling(topology);
  tell(nodes, &MemoryListener::begin);
  tell_deletions(nodes, *owner_, nullptr);
  tell(nodes, &MemoryListener::commit);
  listeners_.remove(listener);
}

void AddressSpaceState::sync_dirty_log() const {
  const FlatView* view = view_.load();
  listeners_.for_each([view](MemoryListener& listener) {
    for (const auto& range : view->ranges()) {
      if (range.ram != nullptr) listener.log_sync(make_section(range));
    }
  });
}

void AddressSpaceState::clear_dirty_log(const RamBlock& ram, uint64_t offset,
                                        uint64_t size_bytes) const {
  const FlatView* view = view_.load();
  listeners_.for_each([&](MemoryListener& listener) {
    for (const auto& range : view->ranges()) {
      if (range.ram != &ram) continue;
      const uint64_t low = std::max(offset, range.offset_in_ram);
      const uint64_t high = std::min(offset + size_bytes, range.offset_in_ram + range.size_bytes);
      if (low >= high) continue;
      listener.log_clear(make_section(range), low - range.offset_in_ram, high - low);
    }
  });
}

}  // namespace rhea::memory
