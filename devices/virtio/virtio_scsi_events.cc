#include "devices/virtio/virtio_scsi_events.h"

#include <bit>
#include <utility>

namespace rhea::devices {

using Kind = VirtioScsiEventKind;

void VirtioScsiEvents::start(uint64_t features) {
  state_.with([features](State& state) { state = {.features = features, .waiting = {}}; });
}

void VirtioScsiEvents::stop() {
  state_.with([](State& state) { state = {}; });
}

bool VirtioScsiEvents::add(VirtioScsiFeature feature, const VirtioScsiEvent& event) {
  return state_.with([&](State& state) {
    if ((state.features.value_or(0) & std::to_underlying(feature)) == 0) return false;
    if (state.waiting.size() < kMost) {
      state.waiting.push_back(event);
    } else {
      state.missed = true;
    }
    return true;
  });
}

bool VirtioScsiEvents::add_reset(const ScsiAddress& address, VirtioScsiResetReason reason) {
  return add(VirtioScsiFeature::kHotplug, {.event = std::to_underlying(Kind::kTransportReset),
                                           .lun = encode_lun(address),
                                           .reason = std::to_underlying(reason)});
}

/// Only for PARAMETERS CHANGED: a new medium is none of these. [virtio-1.2 5.6.6.3]
bool VirtioScsiEvents::add_change(const ScsiAddress& address, const ScsiSense& sense) {
  constexpr uint8_t kParametersChanged = 0x2a;
  if (sense.asc != kParametersChanged) return false;
  return add(VirtioScsiFeature::kChange,
             {.event = std::to_underlying(Kind::kParameterChange),
              .lun = encode_lun(address),
              .reason = static_cast<uint32_t>(sense.asc | sense.ascq << 8)});
}

bool VirtioScsiEvents::waiting() const {
  return state_.with([](const State& state) { return !state.waiting.empty(); });
}

std::optional<VirtioScsiEvent> VirtioScsiEvents::take() {
  return state_.with([](State& state) -> std::optional<VirtioScsiEvent> {
    if (state.waiting.empty()) return std::nullopt;
    VirtioScsiEvent event = state.waiting.front();
    state.waiting.pop_front();
    if (std::exchange(state.missed, false)) {
      event.event = event.event | std::to_underlying(Kind::kMissed);
    }
    return event;
  });
}

VirtioScsiEventsState VirtioScsiEvents::saved() const {
  return state_.with([](const State& state) {
    VirtioScsiEventsState saved{.listened = state.features.has_value(),
                                .features = state.features.value_or(0),
                                .waiting = {},
                                .missed = state.missed};
    for (const VirtioScsiEvent& event : state.waiting) {
      saved.waiting.push_back(
          {std::bit_cast<decltype(VirtioScsiEventsState::Event::bytes)>(event)});
    }
    return saved;
  });
}

Result<void> VirtioScsiEvents::check(const VirtioScsiEventsState& state) {
  if (!state.listened && (!state.waiting.empty() || state.missed)) {
    return fail(ErrorKind::kCorrupt, "field 'waiting': {} events for nobody", state.waiting.size());
  }
  return ok();
}

void VirtioScsiEvents::load(const VirtioScsiEventsState& saved) {
  state_.with([&saved](State& state) {
    state = {};
    if (saved.listened) state.features = saved.features;
    for (const auto& event : saved.waiting) {
      state.waiting.push_back(std::bit_cast<VirtioScsiEvent>(event.bytes));
    }
    state.missed = saved.missed;
  });
}

}  // namespace rhea::devices
