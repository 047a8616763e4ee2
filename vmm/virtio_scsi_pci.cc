#include "vmm/virtio_scsi_pci.h"

#include <array>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "devices/virtio/virtio_pci.h"
#include "devices/virtio/virtio_scsi.h"
#include "memory/guest_memory.h"
#include "vmm/device_request.h"
#include "vmm/scsi_device_bus.h"
#include "vmm/virtio_queues.h"

namespace rhea::vmm {
namespace {

using devices::VirtioScsi;
using devices::VirtioScsiConfig;

constexpr std::array kProperties{
    DeviceProperty{"cmd_per_lun", "uint32", "a hint for the guest (default: 128)"},
    DeviceProperty{"event_idx", "bool", "(default: on)"},
    DeviceProperty{"indirect_desc", "bool", "(default: on)"},
    DeviceProperty{"iothread", "str", "id of an iothread for all queues"},
    DeviceProperty{"iothread-vq-mapping", "list",
                   "of {iothread, vqs}: an iothread for each request queue"},
    DeviceProperty{"max_sectors", "uint32", "a hint for the guest (default: 65535)"},
    DeviceProperty{"num_queues", "uint32", "of requests (default: 1)"},
    DeviceProperty{"virtqueue_size", "uint32", "a power of two from 4 to 1024 (default: 256)"},
};

Result<uint16_t> take_queue_size(OptionReader& options) {
  constexpr uint64_t kLeast = 4, kMost = devices::kMaxQueueSize;
  const uint64_t size = TRY(options.take_uint("virtqueue_size")).value_or(256);
  if (size < kLeast || size > kMost || !std::has_single_bit(size)) {
    return fail(ErrorKind::kInvalidArgument,
                "invalid virtqueue_size property (= {}), must be a power of 2 from {} to {}", size,
                kLeast, kMost);
  }
  return static_cast<uint16_t>(size);
}

Result<std::vector<AioContext*>> take_queues(DeviceRequest& request) {
  const uint64_t count = TRY(request.options().take_uint("num_queues")).value_or(1);
  if (count == 0 || count > kMostQueues) {
    return fail(ErrorKind::kInvalidArgument,
                "Invalid number of queues (= {}), must be a positive integer less than {}.", count,
                kMostQueues + 1);
  }
  return take_queue_contexts(request, count, "num_queues");
}

/// The guest gets it as it is.
Result<void> take_hint(OptionReader& options, std::string_view key, uint32_t& value) {
  const auto given = TRY(options.take_uint(key, 1, UINT32_MAX));
  if (given) value = static_cast<uint32_t>(*given);
  return ok();
}

}  // namespace

std::span<const DeviceProperty> virtio_scsi_pci_properties() { return kProperties; }

Result<std::shared_ptr<devices::PciDevice>> make_virtio_scsi_pci(DeviceRequest& request) {
  VirtioScsiConfig config;
  TRY(set_bool(request.options(), "indirect_desc", config.indirect_desc));
  TRY(set_bool(request.options(), "event_idx", config.event_idx));
  TRY(take_hint(request.options(), "cmd_per_lun", config.cmd_per_lun));
  TRY(take_hint(request.options(), "max_sectors", config.max_sectors));
  config.queue_size = TRY(take_queue_size(request.options()));
  config.queues = TRY(take_queues(request));
  config.bus_name = request.new_bus_name("scsi");
  request.add_part("virtio-backend");

  const DeviceHost& host = request.host();
  auto scsi = std::make_unique<VirtioScsi>(
      request.name(),
      devices::VirtioDevice::Host{.loop = host.loop, .memory = memory::GuestMemory(host.memory)},
      std::move(config));
  request.set_run_hooks(run_hooks_of(*scsi));
  request.add_bus(std::make_unique<ScsiDeviceBus>(scsi->bus()));
  return std::shared_ptr<devices::PciDevice>(
      std::make_shared<devices::VirtioPci>(request.name(), std::move(scsi), host.msi, host.loop));
}

}  // namespace rhea::vmm
