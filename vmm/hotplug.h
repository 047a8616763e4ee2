// Hotplug: devices that come and go while the machine runs.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/acpi_pci_hotplug.h"
#include "devices/pci_bus.h"
#include "util/aio_context.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/timer.h"
#include "vmm/qmp/json_text.h"
#include "vmm/user_devices.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// device_add and device_del: plugs devices in at once, and takes them out when the guest lets them
/// go.
///
///   device_del   latches the slot in the registers and raises the event; returns
///   guest        ejects: a store to a port, on a vCPU, inside an RCU read section. It is latched
///                here, and a bottom half of the service context scheduled
///   main         lets the device end what it has under way, and goes on with other things
///   main         takes the device out and tells: each part's path, then the device with its id.
///                From then on all names are free
///
/// A unit of a host adapter needs no guest: it begins to leave as device_del answers, and goes the
/// same way from there. Its guest hears of it by the adapter, once it has gone. What sits on a
/// device's buses goes, and is told of, first.
///
/// A guest that does not answer is not waited for: after the patience a request is given up, the
/// device stays as it was, and the event says so. The same goes for a disk that does not answer,
/// from the eject on: the guest finds the device again when it scans its bus. A guest may let a
/// device go that nobody asks for.
///
/// Thread: main, service context, BQL held; slots_ejected() anywhere with the BQL.
class Hotplug final : public VmObserver {
 public:
  using Publisher = std::function<void(std::string_view event, const ReplyJson& data)>;
  /// All outlive it. `timers`: the clock of the patience.
  struct Parts {
    AioContext& service;
    UserDevices& devices;
    devices::AcpiPciHotplug& registers;
    TimerList& timers;
    std::chrono::seconds patience;
  };
  /// For so long a request is not repeated.
  static constexpr Nanoseconds kRepeatAfter = std::chrono::milliseconds(1);

  explicit Hotplug(const Parts& parts) REQUIRES(bql);
  ~Hotplug() override;
  Hotplug(const Hotplug&) = delete;
  Hotplug& operator=(const Hotplug&) = delete;

  /// Null: nobody listens (any more).
  void set_publisher(Publisher publisher) { publisher_ = std::move(publisher); }

  /// Nobody may plug or ask for a device while the machine is `doing` something ("migrating"),
  /// until allow() says the same. What a guest ejects goes.
  void forbid(std::string doing) REQUIRES(bql) { forbidding_.push_back(std::move(doing)); }
  /// Errors: kNotFound, nothing of that name forbids it.
  Result<void> allow(std::string_view doing) REQUIRES(bql);

  /// Errors: texts are QEMU's. kBusy: see forbid().
  Result<void> add(const DeviceConfig& config) REQUIRES(bql);
  /// Asks the guest. Errors: kNotFound; kBusy, it was asked just now, or see forbid().
  Result<void> request_removal(std::string_view name) REQUIRES(bql);

  enum class State : uint8_t {
    kPlugging,  ///< the guest has not looked yet
    kPending,   ///< the guest was asked for it
    kTimedOut,  ///< and did not answer
  };
  struct Status {
    std::string id;
    std::optional<unsigned> slot;  ///< a unit of a host adapter has none
    State state = State::kPlugging;
    Nanoseconds since{0};  ///< how long it has been so
    std::string reason;
  };
  /// Of the devices with something to tell, by slot; then of units, by path.
  std::vector<Status> query() const REQUIRES(bql);

  /// The machine's reset is every guest's answer.
  void was_reset(Cause cause) override;

 private:
  /// How it stands with a device.
  struct Progress {
    std::optional<State> state;
    Nanoseconds since{0};
    std::string reason;    // why it timed out
    bool leaving = false;  // the guest has let it go, and what it has under way is to end
    std::unique_ptr<Timer> timer;
  };
  Result<void> check_allowed(std::string_view command) const REQUIRES(bql);
  void slots_ejected(const devices::AcpiPciHotplug::Eject& eject) REQUIRES(bql);
  bool meant_earlier_device(unsigned slot) const REQUIRES(bql);
  void serve() REQUIRES(bql);
  Progress& progress_of(const UserDevice& device) REQUIRES(bql);
  std::vector<UserDevice*> all_leaving() REQUIRES(bql);
  std::vector<UserDevice*> units_told_of() REQUIRES(bql);
  void begin_to_leave(UserDevice& device) REQUIRES(bql);
  Result<void> take_out(UserDevice& device) REQUIRES(bql);
  void take_out_or_keep(UserDevice& device) REQUIRES(bql);
  void keep(UserDevice& device, std::string reason) REQUIRES(bql);
  void stop_leaving(UserDevice& device) REQUIRES(bql);
  void forget_request(const UserDevice& device) REQUIRES(bql);
  void set_state(Progress& progress, std::optional<State> state) REQUIRES(bql);
  void time_is_up(UserDevice& device) REQUIRES(bql);
  std::optional<Status> status_of(const UserDevice& device, const Progress& progress) const
      REQUIRES(bql);

  const Parts parts_;
  Publisher publisher_;
  std::array<Progress, devices::PciBus::kSlots> slots_ GUARDED_BY(bql);
  std::map<std::string, Progress> units_ GUARDED_BY(bql);  // by path: that have been asked for
  std::vector<std::string> forbidding_ GUARDED_BY(bql);
  uint32_t ejected_ GUARDED_BY(bql) = 0;
  std::vector<std::pair<std::string, ReplyJson>> events_ GUARDED_BY(bql);  // to publish
  Bh serve_bh_;
};
std::string_view to_string(Hotplug::State state) noexcept;

}  // namespace rhea::vmm
