// VirtioScsiEvents: what the SCSI host device has to tell its driver by itself.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "devices/virtio/virtio_scsi_spec.h"
#include "util/mutex.h"

namespace rhea::devices {

/// The events that wait for a buffer. They wait also while the queue is paused or not started yet;
/// a driver that has not gone live has nothing to miss, for it looks at the bus when it does. Of
/// more than kMost the rest is dropped, which the driver is told.
///
/// Thread: any; take() on the event queue's context.
class VirtioScsiEvents {
 public:
  static constexpr size_t kMost = 64;

  /// The driver has gone live with these features; tell it of what comes.
  void start(uint64_t features);
  /// It is gone, and so is what waited for it.
  void stop();
  /// False if the driver is not to hear of it.
  bool add_reset(const ScsiAddress& address, VirtioScsiResetReason reason);
  bool add_change(const ScsiAddress& address, const ScsiSense& sense);

  bool waiting() const;
  /// The next one.
  std::optional<VirtioScsiEvent> take();

 private:
  struct State {
    std::optional<uint64_t> features;  // none while nobody listens
    std::deque<VirtioScsiEvent> waiting;
    bool missed = false;
  };
  bool add(VirtioScsiFeature feature, const VirtioScsiEvent& event);

  Guarded<State> state_;
};

}  // namespace rhea::devices
