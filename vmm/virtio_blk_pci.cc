#include "vmm/virtio_blk_pci.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_pci.h"
#include "memory/guest_memory.h"
#include "vmm/block_properties.h"
#include "vmm/device_request.h"
#include "vmm/virtio_queues.h"

namespace rhea::vmm {
namespace {

using devices::VirtioBlkConfig;

constexpr std::array kProperties{
    DeviceProperty{"bootindex", "int32", "any: guests are booted by -kernel"},
    DeviceProperty{"config-wce", "bool", "let the guest switch the write cache", "on"},
    DeviceProperty{"discard", "bool", "offer discarding", "on"},
    DeviceProperty{"drive", "str", "id of a -drive, or name of a block node"},
    DeviceProperty{"event_idx", "bool", "", "on"},
    DeviceProperty{"indirect_desc", "bool", "", "on"},
    DeviceProperty{"iothread", "str", "id of an iothread for all queues"},
    DeviceProperty{"iothread-vq-mapping", "list", "of {iothread, vqs}: an iothread for each queue"},
    DeviceProperty{"logical_block_size", "size", "512 to 32768", "512"},
    DeviceProperty{"min_io_size", "size", "", "0"},
    DeviceProperty{"num-queues", "uint16", "", "1"},
    DeviceProperty{"opt_io_size", "size", "", "0"},
    DeviceProperty{"physical_block_size", "size", "512 to 32768", "512"},
    DeviceProperty{"queue-size", "uint16", "a power of two from 4 to 1024", "256"},
    DeviceProperty{"rerror", "policy", "ignore, report, stop or auto", "auto"},
    DeviceProperty{"serial", "str", "up to 20 bytes"},
    DeviceProperty{"share-rw", "bool", "let others write the node too", "off"},
    DeviceProperty{"werror", "policy", "ignore, report, stop, enospc or auto", "auto"},
    DeviceProperty{"write-cache", "on|off|auto", "on, unless -drive says otherwise", "auto"},
    DeviceProperty{"write-zeroes", "bool", "offer writing zeroes", "on"},
};

Result<void> take_geometry(OptionReader& options, VirtioBlkConfig& config) {
  const BlockGeometry geometry = TRY(take_block_geometry(options));
  config.logical_block_size = geometry.logical_block_size;
  config.physical_block_size = geometry.physical_block_size;
  config.min_io_size = geometry.min_io_size;
  config.opt_io_size = geometry.opt_io_size;
  return ok();
}

Result<void> take_switches(OptionReader& options, VirtioBlkConfig& config) {
  TRY(set_bool(options, "config-wce", config.config_wce));
  TRY(set_bool(options, "discard", config.discard));
  TRY(set_bool(options, "write-zeroes", config.write_zeroes));
  TRY(set_bool(options, "share-rw", config.share_rw));
  TRY(set_bool(options, "indirect_desc", config.indirect_desc));
  TRY(set_bool(options, "event_idx", config.event_idx));
  TRY(options.take_uint("bootindex"));
  constexpr size_t kSerialBytes = 20;
  return set_text(options, "serial", kSerialBytes, config.serial);
}

Result<uint16_t> take_queue_size(OptionReader& options) {
  constexpr uint64_t kLeast = 4, kMost = 1024;
  const uint64_t size = TRY(options.take_uint("queue-size")).value_or(256);
  if (size < kLeast || size > kMost || !std::has_single_bit(size)) {
    return fail(ErrorKind::kInvalidArgument,
                "invalid queue-size property ({}), must be a power of 2 (max {})", size, kMost);
  }
  return static_cast<uint16_t>(size);
}

/// The context of each queue.
Result<std::vector<AioContext*>> take_queues(DeviceRequest& request) {
  const uint64_t count = TRY(request.options().take_uint("num-queues", 0, 65535)).value_or(1);
  if (count == 0) {
    return fail(ErrorKind::kInvalidArgument, "num-queues property must be larger than 0");
  }
  if (count > kMostQueues) {
    return fail(ErrorKind::kInvalidArgument, "num-queues must not be above {}", kMostQueues);
  }
  return take_queue_contexts(request, count, "num-queues");
}

}  // namespace

std::span<const DeviceProperty> virtio_blk_pci_properties() { return kProperties; }

Result<std::shared_ptr<devices::PciDevice>> make_virtio_blk_pci(DeviceRequest& request) {
  VirtioBlkConfig config;
  TRY(take_switches(request.options(), config));
  TRY(take_geometry(request.options(), config));
  config.queue_size = TRY(take_queue_size(request.options()));
  config.queues = TRY(take_queues(request));
  Disk* disk = TRY(request.take_disk("virtio-blk-device", request.add_part("virtio-backend")));
  config.node = disk->node_name();
  config.write_cache = disk->write_cache();
  config.on_read_error = disk->on_read_error();
  config.on_write_error = disk->on_write_error();

  const DeviceHost& host = request.host();
  auto blk = std::make_unique<devices::VirtioBlk>(
      request.name(),
      devices::VirtioDevice::Host{.loop = host.loop, .memory = memory::GuestMemory(host.memory)},
      host.storage.graph(), std::move(config), *disk);
  disk->set_backend(&blk->backend());
  request.set_run_hooks(run_hooks_of(*blk));
  disk->set_move(moves_of(request, *blk));
  return std::shared_ptr<devices::PciDevice>(
      std::make_shared<devices::VirtioPci>(request.name(), std::move(blk), host.msi, host.loop));
}

}  // namespace rhea::vmm
