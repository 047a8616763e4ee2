#include "vmm/hotplug.h"

#include "util/check.h"

namespace rhea::vmm {
namespace {

/// {"device": "vd0", "path": "/machine/peripheral/vd0"}, as QEMU's events name a device.
ReplyJson name_of(const DeviceRequest& request) {
  ReplyJson json;
  if (!request.id().empty()) json["device"] = request.id();
  json["path"] = request.path();
  return json;
}

}  // namespace

std::string_view to_string(Hotplug::State state) noexcept {
  switch (state) {
    case Hotplug::State::kPlugging:
      return "plugging";
    case Hotplug::State::kPending:
      return "pending";
    case Hotplug::State::kTimedOut:
      return "timed-out";
  }
  RHEA_UNREACHABLE("hot-plug state {}", static_cast<unsigned>(state));
}

Hotplug::Hotplug(const Parts& parts)
    : parts_(parts), serve_bh_(parts.service, [this] {
        bql.assert_held();
        serve();
      }) {
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    slots_[slot].timer = std::make_unique<Timer>(parts_.timers, [this, slot] {
      bql.assert_held();
      give_up(slot);
    });
  }
  parts_.registers.set_eject([this](uint32_t slots) {
    bql.assert_held();
    slots_ejected(slots);
  });
}

Hotplug::~Hotplug() {
  bql.assert_held();
  parts_.registers.set_eject(nullptr);
}

Result<void> Hotplug::add(const DeviceConfig& config) {
  const UserDevice* device = TRY(parts_.devices.add(config));
  const auto slot = device->hotplug_slot();
  if (!slot) return ok();
  set_state(*slot, State::kPlugging);
  parts_.registers.device_came(*slot);
  return ok();
}

Result<void> Hotplug::request_removal(std::string_view name) {
  const UserDevice* device = parts_.devices.find(name);
  if (device == nullptr) return fail(ErrorKind::kNotFound, "Device '{}' not found", name);
  const unsigned number = device->hotplug_slot().value();
  Slot& slot = slots_[number];
  if (slot.state == State::kPending && parts_.timers.clock().now() - slot.since < kRepeatAfter) {
    return fail(ErrorKind::kBusy, "Device {} is already in the process of unplug", name);
  }
  set_state(number, State::kPending);
  slot.timer->arm_after(parts_.patience);
  parts_.registers.ask_for(number);
  return ok();
}

void Hotplug::set_state(unsigned slot, std::optional<State> state) {
  slots_[slot].state = state;
  slots_[slot].since = parts_.timers.clock().now();
  slots_[slot].timer->cancel();
}

/// On whatever thread the guest's store came from: nothing is done to a device here.
void Hotplug::slots_ejected(uint32_t slots) {
  ejected_ |= slots;
  serve_bh_.schedule();
}

void Hotplug::serve() {
  const uint32_t slots = std::exchange(ejected_, 0);
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    if ((slots >> slot & 1) != 0) take_out(slot);
  }
  for (const auto& [event, data] : std::exchange(events_, {})) {
    if (publisher_) publisher_(event, data);
  }
}

void Hotplug::take_out(unsigned slot) {
  UserDevice* device = parts_.devices.at_slot(slot);
  if (device == nullptr) return;  // nothing is there, or nothing that may go
  std::vector<std::pair<std::string, ReplyJson>> told;
  for (const UserDevice* leaving : parts_.devices.leaving_with(*device)) {
    const DeviceRequest& request = leaving->request();
    for (const std::string& path : request.parts()) {
      told.emplace_back("DEVICE_DELETED", ReplyJson{{"path", path}});
    }
    told.emplace_back("DEVICE_DELETED", name_of(request));
  }
  if (!parts_.devices.remove(*device)) return;
  parts_.registers.forget(slot);
  set_state(slot, std::nullopt);
  for (auto& event : told) events_.push_back(std::move(event));
}

std::string Hotplug::reason() const {
  return fmt::format(
      "the guest did not let it go within {} s: it may have refused, be busy, or not look for such "
      "requests",
      parts_.patience.count());
}

/// The guest did not answer: it is not to find the request later.
void Hotplug::give_up(unsigned slot) {
  parts_.registers.forget(slot);
  set_state(slot, State::kTimedOut);
  const UserDevice* device = parts_.devices.at_slot(slot);
  RHEA_CHECK(device != nullptr, "an unplug of slot {} times out without a device", slot);
  ReplyJson data = name_of(device->request());
  data["reason"] = reason();
  events_.emplace_back("DEVICE_UNPLUG_GUEST_ERROR", std::move(data));
  serve_bh_.schedule();
}

std::vector<Hotplug::Status> Hotplug::query() const {
  std::vector<Status> all;
  const Nanoseconds now = parts_.timers.clock().now();
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    const UserDevice* device = parts_.devices.at_slot(slot);
    const auto& [state, since, timer] = slots_[slot];
    if (device == nullptr || !state) continue;
    if (state == State::kPlugging && !parts_.registers.announces(slot)) continue;
    all.push_back({.id = device->request().name(),
                   .slot = slot,
                   .state = *state,
                   .since = now - since,
                   .reason = state == State::kTimedOut ? reason() : std::string()});
  }
  return all;
}

/// The vCPUs stand still, and the guest that comes finds them gone; the events follow the reset's.
void Hotplug::was_reset(Cause) {
  bql.assert_held();
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].state == State::kPending) take_out(slot);
    if (slots_[slot].state) set_state(slot, std::nullopt);
  }
  serve_bh_.schedule();
}

}  // namespace rhea::vmm
