// VirtioScsiEvents: what the SCSI host device has to tell its driver by itself.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "devices/virtio/virtio_scsi_spec.h"
#include "util/error.h"
#include "util/mutex.h"

namespace rhea::devices {

struct VirtioScsiEventsState {
  static constexpr size_t kMost = 64;
  struct Event {
    std::array<uint8_t, sizeof(VirtioScsiEvent)> bytes{};
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("bytes", s.bytes);
    }
  };
  bool listened = false;  // there is a driver that hears of events
  uint64_t features = 0;
  std::vector<Event> waiting;
  bool missed = false;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("listened", s.listened);
    v.field("features", s.features);
    v.field("waiting", s.waiting, kMost);
    v.field("missed", s.missed);
  }
};

/// The events that wait for a buffer. They wait also while the queue is paused or not started yet;
/// a driver that has not gone live has nothing to miss, for it looks at the bus when it does. Of
/// more than kMost the rest is dropped, which the driver is told.
///
/// Thread: any; take() on the event queue's context.
class VirtioScsiEvents {
 public:
  static constexpr size_t kMost = VirtioScsiEventsState::kMost;

  /// The driver has gone live with these features; tell it of what comes.
  void start(uint64_t features);
  /// It is gone, and so is what waited for it.
  void stop();
  /// False if the driver is not to hear of it.
  bool add_reset(const ScsiAddress& address, VirtioScsiResetReason reason);
  bool add_change(const ScsiAddress& address, const ScsiSense& sense);

  // Migration.
  VirtioScsiEventsState saved() const;
  static Result<void> check(const VirtioScsiEventsState& state);
  void load(const VirtioScsiEventsState& state);

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
