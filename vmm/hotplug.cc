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

/// A unit's guest has no say.
std::string_view still_busy(const UserDevice& device) REQUIRES(bql) {
  return device.hotplug_slot() ? "the guest has let it go, and what it has under way has not ended"
                               : "what it has under way has not ended";
}

std::string did_not_end(const UserDevice& device, std::chrono::seconds patience) REQUIRES(bql) {
  return fmt::format("{}what it has under way did not end within {} s",
                     device.hotplug_slot() ? "the guest let it go, but " : "", patience.count());
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
      time_is_up(*parts_.devices.at_slot(slot));
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
  for (UserDevice* device : all_leaving()) stop_leaving(*device);
}

/// A unit's is made when it is asked for, and lasts until it has gone or the machine is reset.
Hotplug::Progress& Hotplug::progress_of(const UserDevice& device) {
  if (const auto slot = device.hotplug_slot()) return slots_[*slot];
  const std::string& path = device.request().path();
  Progress& progress = units_[path];
  if (progress.timer == nullptr) {
    progress.timer = std::make_unique<Timer>(parts_.timers, [this, path] {
      bql.assert_held();
      time_is_up(*parts_.devices.find(path));
    });
  }
  return progress;
}

std::vector<UserDevice*> Hotplug::units_told_of() {
  std::vector<UserDevice*> units;
  for (const auto& [path, progress] : units_) units.push_back(parts_.devices.find(path));
  return units;
}

std::vector<UserDevice*> Hotplug::all_leaving() {
  std::vector<UserDevice*> all;
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].leaving) all.push_back(parts_.devices.at_slot(slot));
  }
  for (UserDevice* unit : units_told_of()) {
    if (progress_of(*unit).leaving) all.push_back(unit);
  }
  return all;
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
  set_state(slots_[*slot], State::kPlugging);
  parts_.registers.device_came(*slot);
  return ok();
}

Result<void> Hotplug::request_removal(std::string_view name) {
  TRY(check_allowed("device_del"));
  UserDevice* device = parts_.devices.find(name);
  if (device == nullptr) return fail(ErrorKind::kNotFound, "Device '{}' not found", name);
  Progress& progress = progress_of(*device);
  const bool just_asked = progress.state == State::kPending &&
                          parts_.timers.clock().now() - progress.since < kRepeatAfter;
  // A guest that has let it go has no more to say.
  if (just_asked || progress.leaving) {
    return fail(ErrorKind::kBusy, "Device {} is already in the process of unplug", name);
  }
  const auto slot = device->hotplug_slot();
  if (!slot) {
    begin_to_leave(*device);  // it goes when the command has been answered: that is an event
    return ok();
  }
  set_state(progress, State::kPending);
  progress.timer->arm_after(parts_.patience);
  parts_.registers.ask_for(*slot);
  return ok();
}

void Hotplug::set_state(Progress& progress, std::optional<State> state) {
  progress.state = state;
  progress.since = parts_.timers.clock().now();
  progress.reason.clear();
  progress.timer->cancel();
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
/// What this machine began with came while such requests were open only on the machine that the
/// guest was moved from: nobody here knows how long ago.
bool Hotplug::meant_earlier_device(unsigned slot) const {
  const Progress& progress = slots_[slot];
  if (!progress.state) return true;
  return progress.state == State::kPlugging &&
         parts_.timers.clock().now() - progress.since < parts_.patience;
}

void Hotplug::serve() {
  const uint32_t slots = std::exchange(ejected_, 0);
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    if ((slots >> slot & 1) == 0) continue;
    UserDevice* device = parts_.devices.at_slot(slot);
    if (device != nullptr && !slots_[slot].leaving) begin_to_leave(*device);
  }
  // One at a time: an adapter takes its units along.
  const auto idle = [](const UserDevice* device) REQUIRES(bql) { return device->idle(); };
  for (;;) {
    const std::vector<UserDevice*> all = all_leaving();
    const auto at = std::ranges::find_if(all, idle);
    if (at == all.end()) break;
    take_out_or_keep(**at);
  }
  for (const auto& [event, data] : std::exchange(events_, {})) {
    if (publisher_) publisher_(event, data);
  }
}

/// Main is free meanwhile: how long a disk takes to answer is nobody else's business.
void Hotplug::begin_to_leave(UserDevice& device) {
  forget_request(device);
  Progress& progress = progress_of(device);
  set_state(progress, State::kPending);
  progress.leaving = true;
  progress.timer->arm_after(parts_.patience);
  device.prepare_to_leave([this] { serve_bh_.schedule(); });
}

/// The guest is not to find it later.
void Hotplug::forget_request(const UserDevice& device) {
  if (const auto slot = device.hotplug_slot()) parts_.registers.forget(*slot);
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
  for (auto& event : told) {
    units_.erase(event.second["path"].get<std::string>());
    events_.push_back(std::move(event));
  }
  return ok();
}

void Hotplug::take_out_or_keep(UserDevice& device) {
  const auto slot = device.hotplug_slot();
  if (const auto removed = take_out(device); !removed) {
    return keep(device, with_request(removed.error().message(), parts_.devices.under_way(device)));
  }
  if (!slot) return;
  parts_.registers.forget(*slot);
  slots_[*slot].leaving = false;
  set_state(slots_[*slot], std::nullopt);
}

void Hotplug::stop_leaving(UserDevice& device) {
  if (std::exchange(progress_of(device).leaving, false)) device.stay();
}

/// The device stays, and whoever asked for it hears why.
void Hotplug::keep(UserDevice& device, std::string reason) {
  stop_leaving(device);
  forget_request(device);
  Progress& progress = progress_of(device);
  set_state(progress, State::kTimedOut);
  ReplyJson data = name_of(device.request());
  data["reason"] = reason;
  events_.emplace_back("DEVICE_UNPLUG_GUEST_ERROR", std::move(data));
  serve_bh_.schedule();
  progress.reason = std::move(reason);
}

void Hotplug::time_is_up(UserDevice& device) {
  if (!progress_of(device).leaving) {
    return keep(device, fmt::format("the guest did not let it go within {} s: it may have refused, "
                                    "be busy, or not look for such requests",
                                    parts_.patience.count()));
  }
  if (device.idle()) return serve_bh_.schedule();  // without having said so, but in time
  keep(device,
       with_request(did_not_end(device, parts_.patience), parts_.devices.under_way(device)));
}

std::optional<Hotplug::Status> Hotplug::status_of(const UserDevice& device,
                                                  const Progress& progress) const {
  const auto slot = device.hotplug_slot();
  const bool ejected = slot && (ejected_ >> *slot & 1) != 0;
  if (ejected && progress.state != State::kPending) {  // main has not looked yet
    return Status{
        .id = device.request().name(), .slot = slot, .state = State::kPending, .reason = {}};
  }
  if (!progress.state) return std::nullopt;
  if (progress.state == State::kPlugging && !parts_.registers.announces(*slot)) return std::nullopt;
  return Status{.id = device.request().name(),
                .slot = slot,
                .state = *progress.state,
                .since = parts_.timers.clock().now() - progress.since,
                .reason = progress.leaving ? std::string(still_busy(device)) : progress.reason};
}

std::vector<Hotplug::Status> Hotplug::query() const {
  std::vector<Status> all;
  const auto append = [&](const UserDevice* device, const Progress& progress) REQUIRES(bql) {
    if (device == nullptr) return;
    if (auto status = status_of(*device, progress)) all.push_back(*std::move(status));
  };
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    append(parts_.devices.at_slot(slot), slots_[slot]);
  }
  for (const auto& [path, progress] : units_) append(parts_.devices.find(path), progress);
  return all;
}

/// The vCPUs stand still, and the guest that comes finds them gone; the events follow the reset's.
/// One that is busy even after its reset stays: that guest is not to lose what it has found.
void Hotplug::was_reset(Cause) {
  bql.assert_held();
  ejected_ = 0;  // said by the guest that has gone
  for (unsigned slot = 0; slot < slots_.size(); ++slot) {
    Progress& progress = slots_[slot];
    const bool asked = progress.state == State::kPending;
    if (progress.state) set_state(progress, std::nullopt);
    if (asked) take_out_or_keep(*parts_.devices.at_slot(slot));
  }
  // Of those that are left. None of them takes another along.
  for (UserDevice* unit : units_told_of()) {
    if (!progress_of(*unit).leaving) {
      units_.erase(unit->request().path());
    } else {
      take_out_or_keep(*unit);
    }
  }
  serve_bh_.schedule();
}

}  // namespace rhea::vmm
