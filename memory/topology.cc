#include "memory/topology.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory/internal/address_space_state.h"
#include "util/check.h"

namespace rhea::memory {
namespace {

// A full barrier on every thread of the process, so that the accessors need none of their own.
Result<void> barrier_on_all_threads() {
  const auto membarrier = [](int command) { return ::syscall(SYS_membarrier, command, 0, 0); };
  if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) != 0 ||
      membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
    return Error(ErrorKind::kUnsupported, "the host refuses membarrier(2)", errno);
  }
  return ok();
}

uint32_t bit_of(DirtyClient client) { return uint32_t{1} << static_cast<unsigned>(client); }

}  // namespace

constinit Topology topology;

void Topology::begin_transaction() {
  bql.assert_held();
  RHEA_CHECK(telling_ == 0, "a listener changes the tree it is told about");
  ++depth_;
}

void Topology::end_transaction() {
  bql.assert_held();
  RHEA_CHECK(depth_ > 0, "no transaction is open");
  if (--depth_ == 0 && std::exchange(changed_, false)) commit();
}

void Topology::note_change() { changed_ = true; }

void Topology::commit() {
  // Address spaces over one root share one view. A handful of roots: a search beats a map.
  std::vector<std::pair<const MemoryRegion*, std::shared_ptr<const FlatView>>> built;
  for (const auto& space : snapshot()) {
    auto view = std::ranges::find(built, &space->root(), [](const auto& b) { return b.first; });
    if (view == built.end()) {
      built.emplace_back(&space->root(), FlatView::publishable(FlatView::build(space->root())));
      view = built.end() - 1;
    }
    space->update(view->second);
  }
}

Topology::Spaces Topology::snapshot() const {
  const Spaces* spaces = spaces_.load_as_updater();
  return spaces == nullptr ? Spaces() : *spaces;
}

void Topology::publish(Spaces next) {
  const Spaces* replacement = next.empty() ? nullptr : new Spaces(std::move(next));
  rcu_retire(std::unique_ptr<const Spaces>(spaces_.exchange(replacement)));
}

void Topology::add_space(std::shared_ptr<AddressSpaceState> space) {
  RHEA_CHECK(telling_ == 0, "a listener creates an address space");
  Spaces next = snapshot();
  next.push_back(std::move(space));
  publish(std::move(next));
}

void Topology::remove_space(const AddressSpaceState& space) {
  RHEA_CHECK(telling_ == 0, "a listener destroys an address space");
  Spaces next = snapshot();
  const auto removed = std::erase_if(next, [&](const auto& s) { return s.get() == &space; });
  RHEA_CHECK(removed == 1, "address space {} is not in the list", space.name());
  publish(std::move(next));
}

bool Topology::dirty_logging() const noexcept {
  // relaxed: see DirtyBitmap::mark()
  return internal::logging_clients.load(std::memory_order_relaxed) != 0;
}

Result<void> Topology::tell_log_start() {
  for (const auto& space : snapshot()) TRY(space->tell_log_start());
  return ok();
}

void Topology::tell_log_stop() {
  for (const auto& space : snapshot()) space->tell_log_stop();
}

Result<void> Topology::start_dirty_log(DirtyClient client) {
  bql.assert_held();
  const uint32_t before = internal::logging_clients.fetch_or(bit_of(client));
  if ((before & bit_of(client)) != 0) {
    return fail(ErrorKind::kBusy, "dirty logging is on already");
  }
  auto started = barrier_on_all_threads();
  if (started && before == 0) started = tell_log_start();
  if (started) return ok();
  internal::logging_clients.fetch_and(~bit_of(client));
  if (before == 0) tell_log_stop();
  return started;
}

void Topology::stop_dirty_log(DirtyClient client) {
  bql.assert_held();
  const uint32_t before = internal::logging_clients.fetch_and(~bit_of(client));
  RHEA_CHECK((before & bit_of(client)) != 0, "dirty logging is off");
  if (before == bit_of(client)) tell_log_stop();
}

void Topology::sync_dirty_log() {
  RcuReadGuard guard;
  const Spaces* spaces = spaces_.load();
  if (spaces == nullptr) return;
  for (const auto& space : *spaces) space->sync_dirty_log();
}

void Topology::clear_dirty_log(const RamBlock& ram, uint64_t offset, uint64_t size_bytes) {
  RcuReadGuard guard;
  const Spaces* spaces = spaces_.load();
  if (spaces == nullptr) return;
  for (const auto& space : *spaces) space->clear_dirty_log(ram, offset, size_bytes);
}

}  // namespace rhea::memory
