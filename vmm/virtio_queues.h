// What the virtio devices' rows share: the options that say where queues run, and how the machine
// stops and moves them.
#pragma once

#include <string_view>
#include <vector>

#include "devices/virtio/virtio_device.h"
#include "util/error.h"
#include "vmm/device_request.h"

namespace rhea::vmm {

inline constexpr unsigned kMostQueues = 64;

/// Sets `value` if the option is given.
Result<void> set_bool(OptionReader& options, std::string_view key, bool& value);

/// Takes iothread= and iothread-vq-mapping=: the context of each of `count` queues.
/// `count_property` is what errors call their number.
Result<std::vector<AioContext*>> take_queue_contexts(DeviceRequest& request, size_t count,
                                                     std::string_view count_property);

/// The device takes nothing from its rings while the machine is stopped.
RunHooks run_hooks_of(devices::VirtioDevice& device);

/// How the device's queues change their thread, all to the same; for each disk behind them. The
/// request is the device's, and is kept as long as it.
DiskMove moves_of(DeviceRequest& request, devices::VirtioDevice& device);

}  // namespace rhea::vmm
