#include "vmm/scsi_disks.h"

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>

#include "devices/scsi/scsi_cd.h"
#include "devices/scsi/scsi_hd.h"
#include "vmm/block_properties.h"
#include "vmm/device_request.h"

namespace rhea::vmm {
namespace {

using devices::ScsiCd;
using devices::ScsiDisk;
using devices::ScsiDiskConfig;
using devices::ScsiHd;

constexpr DeviceProperty kBootIndex{"bootindex", "int32", "any: guests are booted by -kernel"};
constexpr DeviceProperty kDeviceId{"device_id", "str",
                                   "up to 247 bytes (default: the serial number)"};
constexpr DeviceProperty kDrive{"drive", "str", "id of a -drive, or name of a block node"};
constexpr DeviceProperty kProduct{"product", "str", "up to 16 bytes"};
constexpr DeviceProperty kReadErrors{"rerror", "policy", "ignore, report, stop or auto"};
constexpr DeviceProperty kSerial{"serial", "str", "up to 36 bytes"};
constexpr DeviceProperty kShareRw{"share-rw", "bool",
                                  "let others write the node too (default: off)"};
constexpr DeviceProperty kVendor{"vendor", "str", "up to 8 bytes"};
constexpr DeviceProperty kVersion{"ver", "str", "up to 4 bytes"};
constexpr DeviceProperty kWriteErrors{"werror", "policy", "ignore, report, stop, enospc or auto"};
constexpr DeviceProperty kWwn{"wwn", "uint64", "world wide name (default: none)"};

constexpr std::array kHdProperties{
    kBootIndex,
    kDeviceId,
    DeviceProperty{"discard_granularity", "size", "0: no space is given back (default: 4096)"},
    kDrive,
    DeviceProperty{"logical_block_size", "size", "512 to 32768 (default: 512)"},
    DeviceProperty{"min_io_size", "size", "(default: 0)"},
    DeviceProperty{"opt_io_size", "size", "(default: 0)"},
    DeviceProperty{"physical_block_size", "size", "512 to 32768 (default: 512)"},
    kProduct,
    DeviceProperty{"removable", "bool", "(default: off)"},
    kReadErrors,
    DeviceProperty{"rotation_rate", "uint16", "turns a minute; 1: none (default: not told)"},
    kSerial,
    kShareRw,
    kVendor,
    kVersion,
    kWriteErrors,
    DeviceProperty{"write-cache", "on|off|auto", "(default: on, or what -drive says)"},
    kWwn,
};

constexpr std::array kCdProperties{
    kBootIndex, kDeviceId, kDrive,   kProduct,     kReadErrors, kSerial,
    kShareRw,   kVendor,   kVersion, kWriteErrors, kWwn,
};

constexpr size_t kSerialBytes = 36, kDeviceIdBytes = 247;
constexpr size_t kVendorBytes = 8, kProductBytes = 16, kVersionBytes = 4;

/// What a person says of both kinds, and what its disk says.
Result<void> take_common(OptionReader& options, const Disk& disk, ScsiDiskConfig& config) {
  TRY(set_text(options, "serial", kSerialBytes, config.serial));
  TRY(set_text(options, "device_id", kDeviceIdBytes, config.device_id));
  TRY(set_text(options, "vendor", kVendorBytes, config.vendor));
  TRY(set_text(options, "product", kProductBytes, config.product));
  TRY(set_text(options, "ver", kVersionBytes, config.revision));
  config.wwn = TRY(options.take_uint("wwn"));
  config.share_rw = TRY(options.take_bool("share-rw")).value_or(false);
  TRY(options.take_uint("bootindex"));
  config.node = disk.node_name();
  config.write_cache = disk.write_cache();
  config.on_read_error = disk.on_read_error();
  config.on_write_error = disk.on_write_error();
  return ok();
}

Result<void> take_hd(OptionReader& options, devices::ScsiHdConfig& config) {
  const BlockGeometry geometry = TRY(take_block_geometry(options));
  config.logical_block_size = geometry.logical_block_size;
  config.physical_block_size = geometry.physical_block_size;
  config.min_io_size = geometry.min_io_size;
  config.opt_io_size = geometry.opt_io_size;
  config.removable = TRY(options.take_bool("removable")).value_or(false);
  config.rotation_rate =
      static_cast<uint16_t>(TRY(options.take_uint("rotation_rate", 0, UINT16_MAX)).value_or(0));
  const auto granularity = TRY(options.take_size("discard_granularity"));
  if (!granularity) return ok();
  constexpr uint64_t kMost = uint64_t{1} << 31;
  if (*granularity > kMost || *granularity % config.logical_block_size != 0) {
    return fail(ErrorKind::kInvalidArgument,
                "discard_granularity must be a multiple of logical_block_size");
  }
  config.discard_granularity = static_cast<uint32_t>(*granularity);
  return ok();
}

/// The tray as the monitor's commands meet it. The drive lives as long as its disk's use of it.
class CdTray final : public DiskTray {
 public:
  explicit CdTray(ScsiCd& drive) : drive_(drive) {}
  TrayPosition position() const override REQUIRES(bql) { return drive_.tray().position(); }
  bool locked() const override REQUIRES(bql) { return drive_.tray().locked(); }
  Result<void> open(Force force) override REQUIRES(bql) {
    return drive_.open_tray(force == Force::kYes ? ScsiCd::Force::kYes : ScsiCd::Force::kNo);
  }
  void close() override REQUIRES(bql) { drive_.close_tray(); }
  Result<void> set_medium(block::Node* node) override REQUIRES(bql) {
    return drive_.set_medium(node);
  }

 private:
  ScsiCd& drive_;
};

void connect(DeviceRequest& request, Disk& disk, ScsiDisk& unit) {
  disk.set_backend(&unit.backend());
  // Stopped, its adapter passes nothing on.
  request.set_run_hooks({.stopped = [] {},
                         .runs =
                             [&unit] {
                               bql.assert_held();
                               unit.machine_runs();
                             }});
}

}  // namespace

std::span<const DeviceProperty> scsi_hd_properties() { return kHdProperties; }
std::span<const DeviceProperty> scsi_cd_properties() { return kCdProperties; }

Result<std::shared_ptr<devices::ScsiUnit>> make_scsi_hd(DeviceRequest& request,
                                                        const devices::ScsiAddress& address) {
  Disk* disk = TRY(request.take_disk("scsi-hd", request.name()));
  devices::ScsiHdConfig config;
  TRY(take_common(request.options(), *disk, config));
  TRY(take_hd(request.options(), config));
  auto unit = std::make_shared<ScsiHd>(request.name(), address, request.host().storage.graph(),
                                       config, *disk);
  connect(request, *disk, *unit);
  return std::shared_ptr<devices::ScsiUnit>(std::move(unit));
}

Result<std::shared_ptr<devices::ScsiUnit>> make_scsi_cd(DeviceRequest& request,
                                                        const devices::ScsiAddress& address) {
  Disk* disk = TRY(request.take_disk("scsi-cd", request.name(), DiskUse::Medium::kOptional));
  devices::ScsiCdConfig config;
  TRY(take_common(request.options(), *disk, config));
  auto unit = std::make_shared<ScsiCd>(request.name(), address, request.host().storage.graph(),
                                       config, *disk, *disk);
  connect(request, *disk, *unit);
  disk->set_tray(std::make_unique<CdTray>(*unit));
  return std::shared_ptr<devices::ScsiUnit>(std::move(unit));
}

}  // namespace rhea::vmm
