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
#include "vmm/device_request.h"

namespace rhea::vmm {
namespace {

using devices::VirtioBlkConfig;

constexpr std::array kProperties{
    DeviceProperty{"bootindex", "int32", "any: guests are booted by -kernel"},
    DeviceProperty{"config-wce", "bool", "let the guest switch the write cache (default: on)"},
    DeviceProperty{"discard", "bool", "offer discarding (default: on)"},
    DeviceProperty{"drive", "str", "id of a -drive, or name of a block node"},
    DeviceProperty{"event_idx", "bool", "(default: on)"},
    DeviceProperty{"indirect_desc", "bool", "(default: on)"},
    DeviceProperty{"iothread", "str", "id of an iothread for all queues"},
    DeviceProperty{"iothread-vq-mapping", "list", "of {iothread, vqs}: an iothread for each queue"},
    DeviceProperty{"logical_block_size", "size", "512 to 32768 (default: 512)"},
    DeviceProperty{"min_io_size", "size", "(default: 0)"},
    DeviceProperty{"num-queues", "uint16", "(default: 1)"},
    DeviceProperty{"opt_io_size", "size", "(default: 0)"},
    DeviceProperty{"physical_block_size", "size", "512 to 32768 (default: 512)"},
    DeviceProperty{"queue-size", "uint16", "a power of two from 4 to 1024 (default: 256)"},
    DeviceProperty{"rerror", "policy", "ignore, report, stop or auto"},
    DeviceProperty{"serial", "str", "up to 20 bytes"},
    DeviceProperty{"share-rw", "bool", "let others write the node too (default: off)"},
    DeviceProperty{"werror", "policy", "ignore, report, stop, enospc or auto"},
    DeviceProperty{"write-cache", "on|off|auto", "(default: on, or what -drive says)"},
    DeviceProperty{"write-zeroes", "bool", "offer writing zeroes (default: on)"},
};

constexpr unsigned kMostQueues = 64;

Result<void> set_bool(OptionReader& options, std::string_view key, bool& value) {
  if (const auto given = TRY(options.take_bool(key))) value = *given;
  return ok();
}

Result<void> take_block_size(OptionReader& options, std::string_view key, uint32_t& size) {
  constexpr uint64_t kLeast = 512, kMost = 32768;
  const auto given = TRY(options.take_size(key));
  if (!given) return ok();
  if (*given < kLeast || *given > kMost) {
    return fail(ErrorKind::kInvalidArgument,
                "Property .{} doesn't take value {} (minimum: {}, maximum: {})", key, *given,
                kLeast, kMost);
  }
  if (!std::has_single_bit(*given)) {
    return fail(ErrorKind::kInvalidArgument,
                "Property .{} doesn't take value '{}', it's not a power of 2", key, *given);
  }
  size = static_cast<uint32_t>(*given);
  return ok();
}

Result<void> take_geometry(OptionReader& options, VirtioBlkConfig& config) {
  TRY(take_block_size(options, "logical_block_size", config.logical_block_size));
  config.physical_block_size = config.logical_block_size;
  TRY(take_block_size(options, "physical_block_size", config.physical_block_size));
  if (config.logical_block_size > config.physical_block_size) {
    return fail(ErrorKind::kInvalidArgument,
                "logical_block_size > physical_block_size not supported");
  }
  constexpr uint64_t kMost = uint64_t{1} << 31;
  for (const auto& [key, value] : {std::pair{"min_io_size", &config.min_io_size},
                                   std::pair{"opt_io_size", &config.opt_io_size}}) {
    const uint64_t size = TRY(options.take_size(key)).value_or(0);
    if (size > kMost || size % config.logical_block_size != 0) {
      return fail(ErrorKind::kInvalidArgument, "{} must be a multiple of logical_block_size", key);
    }
    *value = static_cast<uint32_t>(size);
  }
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
  config.serial = TRY(options.take_string("serial")).value_or("");
  constexpr size_t kSerialBytes = 20;
  if (config.serial.size() > kSerialBytes) {
    return fail(ErrorKind::kInvalidArgument, "Property 'serial' is longer than {} bytes",
                kSerialBytes);
  }
  return ok();
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

/// One element of iothread-vq-mapping: its queues, or a turn in all if it names none.
Result<void> map_queues(DeviceRequest& request, OptionReader& element, size_t turn, size_t turns,
                        std::vector<AioContext*>& queues) {
  AioContext* context = TRY(request.use_iothread(TRY(element.take_required("iothread"))));
  const auto listed = TRY(element.take_uints("vqs"));
  TRY(element.finish());
  if (!listed) {
    for (size_t queue = turn; queue < queues.size(); queue += turns) queues[queue] = context;
    return ok();
  }
  for (const uint64_t queue : *listed) {
    if (queue >= queues.size()) {
      return fail(ErrorKind::kInvalidArgument,
                  "vq index {} for iothread-vq-mapping must be less than num-queues {}", queue,
                  queues.size());
    }
    if (queues[queue] != nullptr) {
      return fail(ErrorKind::kInvalidArgument, "cannot assign vq {} to two iothreads", queue);
    }
    queues[queue] = context;
  }
  return ok();
}

Result<void> take_mapping(DeviceRequest& request, std::vector<AioContext*>& queues) {
  auto elements = TRY(request.options().take_objects("iothread-vq-mapping"));
  const size_t with_queues = static_cast<size_t>(
      std::ranges::count_if(elements, [](const OptionReader& e) { return e.has("vqs"); }));
  if (with_queues != 0 && with_queues != elements.size()) {
    return fail(ErrorKind::kInvalidArgument,
                "either all items in iothread-vq-mapping must have vqs or none of them must have "
                "it");
  }
  for (size_t i = 0; i < elements.size(); ++i) {
    TRY(map_queues(request, elements[i], i, elements.size(), queues));
  }
  for (size_t queue = 0; queue < queues.size(); ++queue) {
    if (queues[queue] != nullptr) continue;
    return fail(ErrorKind::kInvalidArgument,
                "missing vq {} IOThread assignment in "
                "iothread-vq-mapping",
                queue);
  }
  return ok();
}

/// The context of each queue.
Result<std::vector<AioContext*>> take_queues(DeviceRequest& request) {
  OptionReader& options = request.options();
  const uint64_t count = TRY(options.take_uint("num-queues", 0, 65535)).value_or(1);
  if (count == 0) {
    return fail(ErrorKind::kInvalidArgument, "num-queues property must be larger than 0");
  }
  if (count > kMostQueues) {
    return fail(ErrorKind::kInvalidArgument, "num-queues must not be above {}", kMostQueues);
  }
  std::vector<AioContext*> queues(count, nullptr);
  if (options.has("iothread-vq-mapping")) {
    if (options.has("iothread")) {
      return fail(ErrorKind::kInvalidArgument,
                  "iothread and iothread-vq-mapping properties cannot be set at the same time");
    }
    TRY(take_mapping(request, queues));
    return queues;
  }
  AioContext* context = TRY(request.take_iothread());
  for (AioContext*& queue : queues) queue = context;
  return queues;
}

/// How the device's queues change their thread, all to the same. The request is kept as long as the
/// device.
DiskMove moves(DeviceRequest& request, devices::VirtioDevice& device) {
  return {.hold =
              [&device] {
                bql.assert_held();
                return device.hold();
              },
          .move =
              [&device, &request](IoThreadObject* iothread) {
                bql.assert_held();
                AioContext& to =
                    iothread != nullptr ? iothread->context() : request.host().loop.block();
                device.move_queues(std::vector<AioContext*>(device.queues(), &to));
                request.now_uses(iothread);
              },
          .release =
              [&device] {
                bql.assert_held();
                device.release();
              }};
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
  devices::VirtioDevice& device = *blk;
  request.set_run_hooks({.stopped =
                             [&device] {
                               bql.assert_held();
                               device.machine_stopped();
                             },
                         .runs =
                             [&device] {
                               bql.assert_held();
                               device.machine_runs();
                             }});
  disk->set_move(moves(request, device));
  return std::shared_ptr<devices::PciDevice>(
      std::make_shared<devices::VirtioPci>(request.name(), std::move(blk), host.msi, host.loop));
}

}  // namespace rhea::vmm
