// Disks: what -drive made and what devices use: the upper ends of the block graph.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph.h"
#include "devices/io_error.h"
#include "devices/scsi/scsi_tray.h"
#include "util/bql.h"
#include "vmm/config.h"
#include "vmm/machine_requests.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Whether a disk's last requests went well, for query-block.
enum class IoStatus : uint8_t { kOk, kFailed, kNoSpace };
std::string_view to_string(IoStatus status) noexcept;

class Disks;
class IoThreadObject;

/// Moves a device's requests to another event loop: hold(), which may fail, and then, for several
/// devices together, move() or not, and release().
struct DiskMove {
  std::function<Result<void>()> hold;
  std::function<void(IoThreadObject*)> move;  ///< null: to main
  std::function<void()> release;
};

using TrayPosition = devices::ScsiTrayPosition;

/// The tray of a device whose medium comes out, as an operator meets it.
/// Thread: main, service context, at the top. Whatever moves it, Disk::tray_moved() is called.
class DiskTray {
 public:
  virtual ~DiskTray() = default;
  virtual TrayPosition position() const REQUIRES(bql) = 0;
  /// Whether the guest keeps the medium from coming out.
  virtual bool locked() const REQUIRES(bql) = 0;
  enum class Force : uint8_t { kNo, kYes };
  /// Errors: kBusy, the guest has locked it; it was asked to let go.
  virtual Result<void> open(Force force) REQUIRES(bql) = 0;
  /// The guest learns what it finds.
  virtual void close() REQUIRES(bql) = 0;
  /// Lays a medium on the open tray, or takes it off (null). Errors: those of the graph.
  virtual Result<void> set_medium(block::Node* node) REQUIRES(bql) = 0;
};

/// One disk: a -drive, a device's use of a node, or both.
///
/// Thread: main, service context, BQL held. Owns: a share of the node, if it is of a -drive.
class Disk final : public devices::IoErrorSink, public devices::ScsiTraySink {
 public:
  /// Of -drive; empty for a disk that a device made of a node.
  const std::string& drive_id() const noexcept { return drive_id_; }
  /// "/machine/peripheral/vd0/virtio-backend", "lun0"; empty without a device.
  const std::string& qdev() const noexcept { return qdev_; }
  /// Whether `name` is the device's id, its path, or qdev().
  bool is_of_device(std::string_view name) const noexcept;
  /// The device's; null without one.
  block::BlockBackend* backend() const noexcept { return backend_; }
  /// What the device is to use: the name of the medium, even of one without a name of the user's.
  const std::string& node_name() const noexcept { return node_name_; }
  /// The medium, below what limits it; null if there is none.
  block::Node* node(Gs& gs) const noexcept;
  /// What limits this disk, if Disks::set_limits() did; null if nothing does.
  const block::ThrottleGroup* limits(Gs& gs) const noexcept;
  bool write_cache() const noexcept {
    return backend_ != nullptr ? backend_->write_cache() : write_cache_;
  }
  devices::OnIoError on_read_error() const noexcept { return on_read_error_; }
  devices::OnIoError on_write_error() const noexcept { return on_write_error_; }
  /// None if no error can stop the machine.
  std::optional<IoStatus> io_status() const noexcept;

  /// The device's backend, as long as the device has the disk.
  void set_backend(block::BlockBackend* backend) noexcept { backend_ = backend; }

  /// How to move its requests, as long as a device that can has it.
  const DiskMove* move() const noexcept { return move_ ? &*move_ : nullptr; }
  void set_move(DiskMove move) { move_ = std::move(move); }

  /// As long as the device has the disk; null: its medium does not come out.
  DiskTray* tray() const noexcept { return tray_.get(); }
  void set_tray(std::unique_ptr<DiskTray> tray) { tray_ = std::move(tray); }
  /// Whether its medium may go: nothing holds that of a drive without a device.
  bool removable() const noexcept { return backend_ == nullptr || tray_ != nullptr; }
  void tray_moved(const std::string& device, TrayPosition now) override REQUIRES(bql);

  void io_error(const devices::IoError& error) override REQUIRES(bql);

 private:
  friend class Disks;
  explicit Disk(Disks& disks) : disks_(disks) {}
  /// Its device is gone.
  void let_go() noexcept;

  Disks& disks_;
  std::string drive_id_, qdev_, node_name_;
  std::string device_id_, device_path_;
  block::NodeRef drive_node_;
  block::BlockBackend* backend_ = nullptr;
  block::Node* limiter(Gs& gs) const noexcept;

  std::optional<DiskMove> move_;
  std::unique_ptr<DiskTray> tray_;
  block::NodeRef limiter_;  // a throttle node between the device and its medium
  bool write_cache_ = true;
  devices::OnIoError on_read_error_ = devices::OnIoError::kReport;
  devices::OnIoError on_write_error_ = devices::OnIoError::kNoSpace;
  IoStatus io_status_ = IoStatus::kOk;
};

/// How a device uses a disk; what it does not say is as -drive said, or as usual.
struct DiskUse {
  std::string driver;  ///< "virtio-blk-device", for errors
  std::string qdev;
  std::string device_id{}, device_path{};
  enum class Medium : uint8_t { kRequired, kOptional } medium = Medium::kRequired;
  std::optional<bool> write_cache{};
  std::optional<devices::OnIoError> on_read_error{}, on_write_error{};
};

/// All disks of the machine, in the order of making.
///
/// Thread: as Disk. Owns: the disks. Invariants: ids of drives differ from each other and from
/// names of nodes; at the end no device has one.
/// Errors: texts are QEMU's where it has one.
class Disks final : public VmObserver {
 public:
  explicit Disks(block::Graph& graph) : graph_(graph) {}
  ~Disks() override;
  Disks(const Disks&) = delete;
  Disks& operator=(const Disks&) = delete;

  /// Whom to tell of errors; null drops them. Before the first request.
  void set_machine(MachineRequests* machine) { machine_ = machine; }

  /// Opens what -drive asks for. Errors: a taken id; the node's; a file whose format nobody named
  /// and that is not raw.
  Result<void> add_drive(Gs& gs, const DriveConfig& drive);
  /// Gives a device what its property `drive` names: a -drive, or else a node; nothing: a disk
  /// without a medium. The device makes the backend and tells of it. Errors: kNotFound, kBusy.
  Result<Disk*> attach(Gs& gs, const std::optional<std::string>& drive, const DiskUse& use);
  /// The device is gone, and the disk with it.
  void detach(Gs& gs, Disk& disk);

  /// Holds a device's disk to limits, together with the other disks and nodes of `group`; none, if
  /// `limits` are none. Without a group it stays in the one it is in, or gets its own, named
  /// `name`. Errors: a drive without a device; requests that do not end.
  Result<void> set_limits(Gs& gs, Disk& disk, const std::optional<std::string>& group,
                          std::string_view name, const block::ThrottleLimits& limits);

  /// Takes the medium out, if there is one; limits go with it. The tray is open, or there is none.
  /// Errors: requests that do not end.
  Result<void> remove_medium(Gs& gs, Disk& disk) REQUIRES(bql);
  /// Puts a medium into a removable disk that has none. Errors: permissions.
  Result<void> insert_medium(Gs& gs, Disk& disk, block::NodeRef medium) REQUIRES(bql);
  /// Whom to tell that a tray has moved; null: nobody (any more).
  using TrayListener = std::function<void(const Disk& disk, TrayPosition to)>;
  void set_tray_listener(TrayListener listener) { tray_listener_ = std::move(listener); }

  Disk* find_drive(std::string_view id) const noexcept;
  /// See Disk::is_of_device(); null if no device of that name has a disk.
  Disk* find_of_device(std::string_view name) const noexcept;
  std::span<const std::unique_ptr<Disk>> all() const noexcept { return disks_; }

  /// Requests that failed run again: all is well until they fail again.
  void resumed() override;

 private:
  friend class Disk;
  Result<block::ThrottleGroup*> find_or_add_group(Gs& gs, const std::string& id);
  Result<void> join_group(Gs& gs, Disk& disk, const std::string& id);
  Result<void> lift_limits(Gs& gs, Disk& disk);
  void drop_unused_groups(Gs& gs);

  block::Graph& graph_;
  std::vector<std::string> own_groups_;  // made for disks: they go with the last one
  MachineRequests* machine_ = nullptr;
  TrayListener tray_listener_;
  std::vector<std::unique_ptr<Disk>> disks_;
};

}  // namespace rhea::vmm
