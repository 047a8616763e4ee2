#include "vmm/storage.h"

#include "util/log.h"

namespace rhea::vmm {

Storage::Storage(MainLoop& loop)
    : pool_(ThreadPool::Limits{}), graph_(loop, pool_), disks_(graph_), jobs_(job_events_) {
  objects_.set_graph(graph_);
}

Storage::~Storage() = default;

void Storage::settle(Gs& gs) {
  auto settled =
      graph_.with_all_drained(gs, [](block::DrainBypass&) -> Result<void> { return ok(); });
  // Only then: a flush of a disk that does not answer would wait as long as that does.
  for (block::BlockBackend* backend : graph_.backends(gs)) {
    if (!settled.has_value() || backend->node(gs) == nullptr) break;
    settled = graph_.run_sync(gs, graph_.loop().block(),
                              [backend](Co& co) { return backend->co_flush(co); });
  }
  if (!settled.has_value()) {
    RHEA_LOG(kVmm, kWarn, "the machine stopped with disks unsettled: {}",
             settled.error().message());
  }
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
