#include "vmm/disks.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "block/drivers/throttle.h"
#include "util/check.h"
#include "vmm/image_probe.h"

namespace rhea::vmm {

using devices::OnIoError;

std::string_view to_string(IoStatus status) noexcept {
  switch (status) {
    case IoStatus::kOk:
      return "ok";
    case IoStatus::kFailed:
      return "failed";
    case IoStatus::kNoSpace:
      return "nospace";
  }
  RHEA_UNREACHABLE("I/O status {}", static_cast<unsigned>(status));
}

/// The limiter, if it is still where it was put: an operator may have mirrored it away.
block::Node* Disk::limiter(Gs& gs) const noexcept {
  const bool there = limiter_ && backend_ != nullptr && backend_->node(gs) == limiter_.get();
  return there ? limiter_.get() : nullptr;
}

block::Node* Disk::node(Gs& gs) const noexcept {
  if (const block::Node* above = limiter(gs)) return above->children(gs).front()->node(gs);
  return backend_ != nullptr ? backend_->node(gs) : drive_node_.get();
}

const block::ThrottleGroup* Disk::limits(Gs& gs) const noexcept {
  const block::Node* above = limiter(gs);
  return above != nullptr ? static_cast<const block::Throttle&>(above->driver()).group(gs)
                          : nullptr;
}

std::optional<IoStatus> Disk::io_status() const noexcept {
  const auto can_stop = [](OnIoError policy) {
    return policy == OnIoError::kStop || policy == OnIoError::kNoSpace;
  };
  if (backend_ == nullptr) return std::nullopt;
  if (!can_stop(on_read_error_) && !can_stop(on_write_error_)) return std::nullopt;
  return io_status_;
}

void Disk::io_error(const devices::IoError& error) {
  if (error.action == OnIoError::kStop && io_status_ == IoStatus::kOk) {
    io_status_ = error.os_errno == ENOSPC ? IoStatus::kNoSpace : IoStatus::kFailed;
  }
  if (disks_.machine_ == nullptr) return;
  disks_.machine_->disk_error({.drive_id = drive_id_,
                               .qdev = qdev_,
                               .tracks_status = io_status().has_value(),
                               .error = error});
}

bool Disk::is_of_device(std::string_view name) const noexcept {
  if (qdev_.empty() || name.empty()) return false;
  return name == device_id_ || name == device_path_ || name == qdev_;
}

void Disk::tray_moved(const std::string&, TrayPosition now) {
  if (disks_.tray_listener_) disks_.tray_listener_(*this, now);
}

void Disk::let_go() noexcept {
  backend_ = nullptr;
  move_.reset();
  tray_.reset();
  limiter_ = {};
  drive_node_ = {};
}

Disks::~Disks() {
  for (const auto& disk : disks_) {
    RHEA_CHECK(disk->qdev_.empty(), "'{}' still has its disk", disk->qdev_);
  }
}

Disk* Disks::find_drive(std::string_view id) const noexcept {
  const auto at = std::ranges::find_if(
      disks_, [&](const auto& disk) { return !id.empty() && disk->drive_id_ == id; });
  return at == disks_.end() ? nullptr : at->get();
}

Disk* Disks::find_of_device(std::string_view name) const noexcept {
  const auto at =
      std::ranges::find_if(disks_, [&](const auto& disk) { return disk->is_of_device(name); });
  return at == disks_.end() ? nullptr : at->get();
}

Result<void> Disks::add_drive(Gs& gs, const DriveConfig& drive) {
  if (find_drive(drive.id) != nullptr) {
    return fail(ErrorKind::kExists, "Duplicate ID '{}' for drive", drive.id);
  }
  if (graph_.find(gs, drive.id) != nullptr) {
    return fail(ErrorKind::kExists, "Device name '{}' conflicts with an existing node name",
                drive.id);
  }
  block::NodeRef node;
  if (drive.node) {
    OptionTree options = *drive.node;
    node = TRY(drive.probed_file.empty()
                   ? graph_.open(gs, std::move(options))
                   : open_probed(gs, graph_, std::move(options), drive.probed_file));
  }
  std::unique_ptr<Disk> disk(new Disk(*this));
  disk->drive_id_ = drive.id;
  disk->drive_node_ = std::move(node);
  disk->write_cache_ = drive.write_cache;
  disk->on_read_error_ = drive.on_read_error.value_or(disk->on_read_error_);
  disk->on_write_error_ = drive.on_write_error.value_or(disk->on_write_error_);
  disks_.push_back(std::move(disk));
  return ok();
}

Result<Disk*> Disks::attach(Gs& gs, const std::optional<std::string>& drive, const DiskUse& use) {
  const bool needs_medium = use.medium == DiskUse::Medium::kRequired;
  if (!drive && needs_medium) return fail(ErrorKind::kInvalidArgument, "drive property not set");
  Disk* disk = find_drive(drive.value_or(""));
  if (disk != nullptr && !disk->qdev_.empty()) {
    return fail(ErrorKind::kBusy, "Drive '{}' is already in use by another device", *drive);
  }
  if (disk != nullptr && !disk->drive_node_ && needs_medium) {
    return fail(ErrorKind::kNotFound, "Device needs media, but drive is empty");
  }
  const block::Node* node = disk != nullptr ? disk->drive_node_.get()
                            : drive         ? graph_.find(gs, *drive)
                                            : nullptr;
  if (node == nullptr && disk == nullptr && drive) {
    return fail(ErrorKind::kNotFound, "Property '{}.drive' can't find value '{}'", use.driver,
                *drive);
  }
  if (disk == nullptr) {
    disks_.push_back(std::unique_ptr<Disk>(new Disk(*this)));
    disk = disks_.back().get();
  }
  disk->node_name_ = node != nullptr ? node->name() : std::string();
  disk->qdev_ = use.qdev;
  disk->device_id_ = use.device_id;
  disk->device_path_ = use.device_path;
  disk->write_cache_ = use.write_cache.value_or(disk->write_cache_);
  disk->on_read_error_ = use.on_read_error.value_or(disk->on_read_error_);
  disk->on_write_error_ = use.on_write_error.value_or(disk->on_write_error_);
  disk->io_status_ = IoStatus::kOk;
  return disk;
}

void Disks::detach(Gs& gs, Disk& disk) {
  // A -drive lives as long as its device.
  const auto at =
      std::ranges::find_if(disks_, [&](const auto& other) { return other.get() == &disk; });
  RHEA_CHECK(at != disks_.end(), "'{}' has lost its disk", disk.qdev_);
  const std::shared_ptr<Disk> gone = std::move(*at);
  disks_.erase(at);
  gone->let_go();
  // An error that the device has told of may still be on its way to it.
  graph_.loop().service().post([gone] {});
  drop_unused_groups(gs);
}

Result<block::ThrottleGroup*> Disks::find_or_add_group(Gs& gs, const std::string& id) {
  if (block::ThrottleGroup* group = graph_.throttle_groups().find(gs, id)) return group;
  block::ThrottleGroup* group = TRY(graph_.throttle_groups().add(gs, id, {}));
  own_groups_.push_back(id);
  return group;
}

/// A group in use stays; so does one that another disk has joined.
void Disks::drop_unused_groups(Gs& gs) {
  graph_.close_unused(gs);
  std::erase_if(own_groups_, [&](const std::string& id) {
    return graph_.throttle_groups().remove(gs, id).has_value();
  });
}

/// Puts a throttle node between the disk's device and its medium, or changes that node's group.
Result<void> Disks::join_group(Gs& gs, Disk& disk, const std::string& id) {
  const block::Node& medium = *disk.node(gs);
  OptionTree options;
  options.set("driver", OptionTree::string(std::string(block::Throttle::kName)));
  options.set("throttle-group", OptionTree::string(id));
  options.set("file", OptionTree::string(medium.name()));
  options.set("read-only", OptionTree::string(medium.read_only() ? "on" : "off"));
  options.set("discard", OptionTree::string("unmap"));  // the medium's to say
  if (const block::Node* limiter = disk.limiter(gs)) {
    options.set("node-name", OptionTree::string(limiter->name()));
    return graph_.reopen(gs, std::move(options));
  }
  block::NodeRef limiter = TRY(graph_.open(gs, std::move(options)));
  TRY(disk.backend_->replace(gs, *limiter));
  disk.limiter_ = std::move(limiter);
  return ok();
}

Result<void> Disks::lift_limits(Gs& gs, Disk& disk) {
  if (disk.limiter(gs) != nullptr) TRY(disk.backend_->replace(gs, *disk.node(gs)));
  disk.limiter_ = {};
  drop_unused_groups(gs);
  return ok();
}

Result<void> Disks::set_limits(Gs& gs, Disk& disk, const std::optional<std::string>& group,
                               std::string_view name, const block::ThrottleLimits& limits) {
  if (limits.unlimited()) return lift_limits(gs, disk);
  if (disk.backend_ == nullptr) {
    return fail(ErrorKind::kUnsupported, "Drive '{}' is not used by a device", disk.drive_id_);
  }
  const block::ThrottleGroup* before = disk.limits(gs);
  const std::string id = group ? *group : before != nullptr ? before->id() : std::string(name);
  block::ThrottleGroup* joined = TRY(find_or_add_group(gs, id));
  Result<void> result = joined == before ? ok() : join_group(gs, disk, id);
  if (result.has_value()) joined->set_limits(gs, limits);
  drop_unused_groups(gs);
  return result;
}

Result<void> Disks::remove_medium(Gs& gs, Disk& disk) {
  TRY(lift_limits(gs, disk));
  if (disk.tray_ != nullptr && disk.node(gs) != nullptr) TRY(disk.tray_->set_medium(nullptr));
  disk.drive_node_ = {};
  disk.node_name_.clear();
  graph_.close_unused(gs);  // its file may be taken away when the command has answered
  return ok();
}

Result<void> Disks::insert_medium(Gs& gs, Disk& disk, block::NodeRef medium) {
  RHEA_CHECK(disk.removable() && disk.node(gs) == nullptr, "'{}' takes no medium", disk.qdev_);
  if (disk.tray_ != nullptr) TRY(disk.tray_->set_medium(medium.get()));
  disk.node_name_ = medium->name();
  // A device holds its medium by itself.
  if (disk.tray_ == nullptr) disk.drive_node_ = std::move(medium);
  return ok();
}

void Disks::resumed() {
  for (const auto& disk : disks_) disk->io_status_ = IoStatus::kOk;
}

}  // namespace rhea::vmm
