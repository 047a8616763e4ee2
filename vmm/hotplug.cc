#include "vmm/hotplug.h"

#include <algorithm>

#include "util/check.h"
#include "util/log.h"

namespace rhea::vmm {
namespace {

/// {"device": "vd0", "path": "/machine/peripheral/vd0"}, as QEMU's events name a device.
ReplyJson name_of(const DeviceRequest& request) {
  ReplyJson json;
  if (!request.id().empty()) json["device"] = request.id();
  json["path"] = request.path();
  return json;
}

/// "what is wrong: the oldest request".
std::string with_request(std::string what, const std::string& request) {
  return request.empty() ? what : what + ": " + request;
}

constexpr std::string_view kStillBusy =
    "the guest has let it go, and what it has under way has not ended";

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
      time_is_up(slot);
    });
  }
  parts_.registers.set_eject([this](const devices::AcpiPciHotplug::Eject& eject) {
    bql.assert_held();
    slots_ejected(eject);
  });
}

Hotplug::~Hotplug() {
  bql.assert_held();
  parts_.registers.set_eject(nullptr);
  for (unsigned slot = 0; slot < slots_.size(); ++slot) stop_leaving(slot);
}

Result<void> Hotplug::allow(std::string_view doing) {
  const auto at = std::ranges::find(forbidding_, doing);
  if (at == forbidding_.end()) {
    return fail(ErrorKind::kNotFound, "'{}' does not forbid hot-plug", doing);
  }
  forbidding_.erase(at);
  return ok();
}

Result<void> Hotplug::check_allowed(std::string_view command) const {
  if (forbidding_.empty()) return ok();
  return fail(ErrorKind::kBusy, "{} not allowed while {}", command, forbidding_.front());
}

Result<void> Hotplug::add(const DeviceConfig& config) {
  TRY(check_allowed("device_add"));
  const UserDevice* device = TRY(parts_.devices.add(config));
  const auto slot = device->hotplug_slot();
  if (!slot) return ok();
  set_state(*slot, State::kPlugging);
  parts_.registers.device_came(*slot);
  return ok();
}

Result<void> Hotplug::request_removal(std::string_view name) {
  TRY(check_allowed("device_del"));
  const UserDevice* device = parts_.devices.find(name);
  if (device == nullptr) return fail(ErrorKind::kNotFound, "Device '{}' not found", name);
  if (!device->hotplug_slot()) return request_removal_of_unit(*device);
  const unsigned number = *device->hotplug_slot();
  Slot& slot = slots_[number];
  const bool just_asked =
      slot.state == State::kPending && parts_.timers.clock().now() - slot.since < kRepeatAfter;
  // A guest that has let it go has no more to say.
  if (just_asked || slot.leaving) {
    return fail(ErrorKind::kBusy, "Device {} is already in the process of unplug", name);
  }
  set_state(number, State::kPending);
  slot.timer->arm_after(parts_.patience);
  parts_.registers.ask_for(number);
  return ok();
}

/// When the command has been answered: what follows is an event.
Result<void> Hotplug::request_removal_of_unit(const UserDevice& unit) {
  const std::string& path = unit.request().path();
  if (std::ranges::find(leaving_units_, path) != leaving_units_.end()) {
    return fail(ErrorKind::kBusy, "Device {} is already in the process of unplug",
                unit.request().name());
  }
  leaving_units_.push_back(path);
  serve_bh_.schedule();
  return ok();
}

/// The guest need not agree, but what the host is doing for it has to end.
void Hotplug::take_out_unit(const std::string& path) {
  UserDevice* unit = parts_.devices.find(path);
  if (unit == nullptr) return;  // it went with its adapter
  if (const auto removed = take_out(*unit); !removed) {
    tell_stays(*unit, with_request(removed.error().message(), parts_.devices.under_way(*unit)));
  }
}

void Hotplug::tell_stays(const UserDevice& device, const std::string& reason) {
  ReplyJson data = name_of(device.request());
  data["reason"] = reason;
  events_.emplace_back("DEVICE_UNPLUG_GUEST_ERROR", std::move(data));
  serve_bh_.schedule();
}

void Hotplug::set_state(unsigned slot, std::optional<State> state) {
  slots_[slot].state = state;
  slots_[slot].since = parts_.timers.clock().now();
  slots_[slot].reason.clear();
  slots_[slot].timer->cancel();
}

/// On whatever thread the guest's store came from: nothing is done to a device here. An empty slot
/// has nothing to eject, whatever is plugged into it before main looks.
void Hotplug::slots_ejected(const devices::AcpiPciHotplug::Eject& eject) {
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    const uint32_t bit = uint32_t{1} << slot;
    if ((eject.slots & bit) == 0 || parts_.devices.at_slot(slot) == nullptr) continue;
    if ((eject.late & bit) != 0 && meant_earlier_device(slot)) {
      RHEA_LOG(kVmm, kDebug, "slot {}: an eject that was asked for before its device came", slot);
      continue;
    }
    ejected_ |= bit;
  }
  serve_bh_.schedule();
}

/// A guest that was asked twice ejects twice, and something else may sit there by then. What is
/// asked for itself may go whichever eject it is; and a guest that never answers the second time
/// has had its time to.
bool Hotplug::meant_earlier_device(unsigned slot) const {
  return slots_[slot].state == State::kPlugging &&
         parts_.timers.clock().now() - slots_[slot].since < parts_.patience;
}

void Hotplug::serve() {
  const uint32_t slots = std::exchange(ejected_, 0);
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    if ((slots >> slot & 1) != 0) begin_to_leave(slot);
    if (slots_[slot].leaving && parts_.devices.at_slot(slot)->idle()) take_out_of(slot);
  }
  for (const std::string& path : std::exchange(leaving_units_, {})) take_out_unit(path);
  for (const auto& [event, data] : std::exchange(events_, {})) {
    if (publisher_) publisher_(event, data);
  }
}

/// Main is free meanwhile: how long a disk takes to answer is nobody else's business.
void Hotplug::begin_to_leave(unsigned slot) {
  UserDevice* device = parts_.devices.at_slot(slot);
  if (device == nullptr || slots_[slot].leaving) return;
  parts_.registers.forget(slot);
  set_state(slot, State::kPending);
  slots_[slot].leaving = true;
  slots_[slot].timer->arm_after(parts_.patience);
  device->prepare_to_leave([this] { serve_bh_.schedule(); });
}

/// With all that sit on its buses, each told of before it.
Result<void> Hotplug::take_out(UserDevice& device) {
  std::vector<std::pair<std::string, ReplyJson>> told;
  for (const UserDevice* leaving : parts_.devices.leaving_with(device)) {
    const DeviceRequest& request = leaving->request();
    for (const std::string& path : request.parts()) {
      told.emplace_back("DEVICE_DELETED", ReplyJson{{"path", path}});
    }
    told.emplace_back("DEVICE_DELETED", name_of(request));
  }
  TRY(parts_.devices.remove(device));
  for (auto& event : told) events_.push_back(std::move(event));
  return ok();
}

void Hotplug::take_out_of(unsigned slot) {
  UserDevice& device = *parts_.devices.at_slot(slot);
  if (const auto removed = take_out(device); !removed) {
    return keep(slot, with_request(removed.error().message(), parts_.devices.under_way(device)));
  }
  parts_.registers.forget(slot);
  slots_[slot].leaving = false;
  set_state(slot, std::nullopt);
}

void Hotplug::stop_leaving(unsigned slot) {
  if (std::exchange(slots_[slot].leaving, false)) parts_.devices.at_slot(slot)->stay();
}

/// The device stays, and whoever asked for it hears why.
void Hotplug::keep(unsigned slot, std::string reason) {
  stop_leaving(slot);
  parts_.registers.forget(slot);  // the guest is not to find the request later
  set_state(slot, State::kTimedOut);
  const UserDevice* device = parts_.devices.at_slot(slot);
  RHEA_CHECK(device != nullptr, "an unplug of slot {} fails without a device", slot);
  tell_stays(*device, reason);
  slots_[slot].reason = std::move(reason);
}

void Hotplug::time_is_up(unsigned slot) {
  if (!slots_[slot].leaving) {
    return keep(slot, fmt::format("the guest did not let it go within {} s: it may have refused, "
                                  "be busy, or not look for such requests",
                                  parts_.patience.count()));
  }
  UserDevice* device = parts_.devices.at_slot(slot);
  if (device->idle()) return serve_bh_.schedule();  // without having said so, but in time
  keep(slot, with_request(fmt::format("the guest let it go, but what it has under way did not end "
                                      "within {} s",
                                      parts_.patience.count()),
                          parts_.devices.under_way(*device)));
}

std::vector<Hotplug::Status> Hotplug::query() const {
  std::vector<Status> all;
  const Nanoseconds now = parts_.timers.clock().now();
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    const UserDevice* device = parts_.devices.at_slot(slot);
    const Slot& about = slots_[slot];
    if (device == nullptr || !about.state) continue;
    if (about.state == State::kPlugging && !parts_.registers.announces(slot)) continue;
    all.push_back({.id = device->request().name(),
                   .slot = slot,
                   .state = *about.state,
                   .since = now - about.since,
                   .reason = about.leaving ? std::string(kStillBusy) : about.reason});
  }
  return all;
}

/// The vCPUs stand still, and the guest that comes finds them gone; the events follow the reset's.
/// One that is busy even after its reset stays: that guest is not to lose what it has found.
void Hotplug::was_reset(Cause) {
  bql.assert_held();
  ejected_ = 0;  // said by the guest that has gone
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    const bool asked = slots_[slot].state == State::kPending;
    if (slots_[slot].state) set_state(slot, std::nullopt);
    if (asked) take_out_of(slot);
  }
  serve_bh_.schedule();
}

}  // namespace rhea::vmm
