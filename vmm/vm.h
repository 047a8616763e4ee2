// Vm: the run state of one machine and everything that changes it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "util/aio_context.h"
#include "util/bql.h"
#include "util/main_loop.h"
#include "vmm/accel.h"
#include "vmm/config.h"
#include "vmm/machine_requests.h"
#include "vmm/pc_machine.h"
#include "vmm/vm_clock.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// Implements what monitors, devices and vCPUs may ask of the machine.
///
/// Requests from a device or a vCPU are latched under the BQL and served by a bottom half in the
/// service context; requests from a monitor run there already and are served at once. Thread: BQL;
/// VmControl on main in the service context. Invariants: vCPUs run exactly while state() is
/// kRunning and no request is latched.
class Vm final : public VmControl, public MachineRequests, public VcpuEvents {
 public:
  /// What Vm steers; all outlive it. `accel` may have no vCPUs (qtest).
  struct Parts {
    MainLoop& loop;
    Accel& accel;
    VmClock& clock;
  };
  Vm(const VmConfig& config, const Parts& parts);
  ~Vm() override;

  /// The machine is made after Vm, because its devices need MachineRequests. Loads the kernel and
  /// leaves the state at prelaunch.
  Result<void> power_on(PcMachine& machine) REQUIRES(bql);
  /// Instead of it, for a machine that comes from another instance: waits in inmigrate.
  void await_arrival(PcMachine& machine) REQUIRES(bql);
  /// Asked before the machine runs, whoever wants it to; an error keeps it where it is.
  void set_run_gate(std::function<Result<void>()> gate) REQUIRES(bql) { gate_ = std::move(gate); }
  int exit_status() const REQUIRES(bql) { return exit_status_; }

  // Of a migration. Main, at the top.
  /// Stops for as long as the hand-over takes, in finish-migrate. What a vCPU has asked for on its
  /// way is done first. Errors: kBusy, the machine ends.
  Result<void> begin_hand_over() REQUIRES(bql);
  /// What it was before, and will be again if it stays, or on the other side.
  RunState before_hand_over() const REQUIRES(bql) { return before_hand_over_; }
  enum class HandOver : uint8_t {
    kStays,  ///< goes on as before
    kLeft,   ///< runs elsewhere: postmigrate
    kOpen,   ///< nobody knows, or may run it: paused
  };
  void end_hand_over(HandOver how) REQUIRES(bql);
  /// In inmigrate: whether to run on arrival, which stop() and cont() decide until then.
  bool runs_on_arrival() const REQUIRES(bql) { return runs_on_arrival_; }
  /// Ends inmigrate; the machine stands still.
  void arrive(RunState state) REQUIRES(bql);
  /// Leaves the main loop; the process ends with status 1.
  void abandon() REQUIRES(bql);

  RunState state() const override;
  std::optional<std::string> name() const override { return config_.name; }
  std::string uuid() const override;
  KvmInfo kvm() const override;
  std::vector<VcpuInfo> vcpus() const override { return parts_.accel.vcpus(); }
  Result<void> stop() override REQUIRES(bql);
  Result<void> cont() override REQUIRES(bql);
  Result<void> reset(Cause cause) override REQUIRES(bql);
  Result<void> powerdown() override REQUIRES(bql);
  void quit(Cause cause) override REQUIRES(bql);
  void add_observer(VmObserver& observer) override REQUIRES(bql);
  void remove_observer(VmObserver& observer) override REQUIRES(bql);

  void request_reset(Cause cause) override REQUIRES(bql);
  void request_shutdown(Cause cause) override REQUIRES(bql);
  void disk_error(const DiskError& error) override REQUIRES(bql);
  void triple_fault() override;
  void internal_error(std::string report) override;

 private:
  void latch_and_hold() REQUIRES(bql);
  void serve_requests() REQUIRES(bql);
  void serve_shutdown(Cause cause) REQUIRES(bql);
  void serve_internal_error(const std::string& report) REQUIRES(bql);
  /// Stops vCPUs and the clock and takes the state, telling observers if the machine was running.
  void halt(RunState state) REQUIRES(bql);
  Result<void> reload() REQUIRES(bql);
  void run() REQUIRES(bql);
  bool requests_wait() const REQUIRES(bql);
  Result<void> check_here(std::string_view what) const REQUIRES(bql);
  template <class F>
  void tell(F&& f) REQUIRES(bql);

  const VmConfig& config_;
  const Parts parts_;
  PcMachine* machine_ = nullptr;
  std::unique_ptr<Bh> serve_bh_;
  RunState state_ GUARDED_BY(bql) = RunState::kPrelaunch;
  RunState before_hand_over_ GUARDED_BY(bql) = RunState::kPrelaunch;
  bool runs_on_arrival_ GUARDED_BY(bql) = true;
  std::function<Result<void>()> gate_ GUARDED_BY(bql);
  std::vector<VmObserver*> observers_ GUARDED_BY(bql);
  int exit_status_ GUARDED_BY(bql) = 0;
  bool quitting_ GUARDED_BY(bql) = false;

  // Latched requests; each is served once.
  std::optional<Cause> reset_requested_ GUARDED_BY(bql);
  std::optional<Cause> shutdown_requested_ GUARDED_BY(bql);
  std::optional<std::string> internal_error_ GUARDED_BY(bql);
};

}  // namespace rhea::vmm
