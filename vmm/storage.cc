#include "vmm/storage.h"

#include <chrono>
#include <utility>
#include <vector>

#include "util/log.h"

namespace rhea::vmm {

Storage::Storage(MainLoop& loop)
    : pool_(ThreadPool::Limits{}), graph_(loop, pool_), disks_(graph_), jobs_(job_events_) {
  objects_.set_graph(graph_);
}

Storage::~Storage() = default;

void Storage::settle(Gs& gs) {
  settled_ = graph_.with_all_drained(gs, [](block::DrainBypass&) -> Result<void> { return ok(); });
  // Only then: a flush of a disk that does not answer would wait as long as that does.
  if (settled_.has_value()) settled_ = flush(gs);
  if (!settled_.has_value()) {
    RHEA_LOG(kVmm, kWarn, "the machine stopped with disks unsettled: {}",
             settled_.error().message());
  }
}

/// All disks at once. One that does not answer in time goes on by itself: it is a request like any
/// other, and whatever drains the disk waits for it.
Result<void> Storage::flush(Gs& gs) {
  struct Flushes {  // main's own: they run on its block context
    std::vector<const block::BlockBackend*> left;
    Result<void> result = ok();
  };
  const auto flushes = std::make_shared<Flushes>();
  MainLoop& loop = graph_.loop();
  for (block::BlockBackend* backend : graph_.backends(gs)) {
    if (backend->node(gs) == nullptr) continue;
    TRY(spawn(loop.block(), [flushes, backend, &waiter = loop.waiter()](Co& co) {
      auto flushed = backend->co_flush(co);
      if (!flushed.has_value()) flushes->result = std::move(flushed);
      std::erase(flushes->left, backend);
      waiter.kick();
    }));
    flushes->left.push_back(backend);  // before it runs: main polls below
  }
  const auto all_done = [&] { return flushes->left.empty(); };
  if (loop.waiter().until(gs, all_done, block::kDrainDeadline)) return std::move(flushes->result);
  return fail(ErrorKind::kTimeout, "the flush of '{}' did not end within {} s",
              flushes->left[0]->name(),
              std::chrono::duration_cast<std::chrono::seconds>(block::kDrainDeadline).count());
}

Result<void> Storage::assemble(Gs& gs, const VmConfig& config) {
  for (const std::string& id : config.other_object_ids) objects_.reserve(id);
  for (const ObjectConfig& object : config.objects) {
    auto added = objects_.add(gs, *find_object_type(object.type), object.id, object.options);
    if (!added) return std::move(added).error().context(object.origin);
  }
  for (const BlockdevConfig& blockdev : config.blockdevs) {
    auto added = graph_.add(gs, blockdev.options);
    if (!added) return std::move(added).error().context(blockdev.origin);
  }
  for (const DriveConfig& drive : config.drives) {
    auto added = disks_.add_drive(gs, drive);
    if (!added) return std::move(added).error().context(drive.origin);
  }
  return ok();
}

}  // namespace rhea::vmm
