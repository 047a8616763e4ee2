#include "vmm/storage.h"

namespace rhea::vmm {

Storage::Storage(MainLoop& loop)
    : pool_(ThreadPool::Limits{}), graph_(loop, pool_), disks_(graph_) {
  objects_.set_graph(graph_);
}

Storage::~Storage() = default;

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
