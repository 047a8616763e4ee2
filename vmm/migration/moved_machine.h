// MovedMachine: the machine as a migration sees it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "memory/ram_block.h"
#include "migration/machine.h"
#include "util/main_loop.h"
#include "vmm/accel.h"
#include "vmm/config.h"
#include "vmm/pc_machine.h"
#include "vmm/storage.h"
#include "vmm/user_devices.h"
#include "vmm/vm.h"

namespace rhea::vmm {

/// What is moved: RAM, and as states, in this order:
///
///   accelerator              vCPUs, interrupt controllers, clocks
///   board devices            by their names
///   devices of -device       by where they sit, so that their ids may differ; a SCSI unit's state
///                            is its adapter's, and it is listed to be there on both sides
///   run-state                what the machine was in
///
/// They are loaded in this order: a device drives its interrupt line as it loads. They are saved
/// with the accelerator behind the devices: what a queue completes as it is saved may interrupt.
///
/// Thread: see migration::Machine.
class MovedMachine final : public migration::Machine, public VmObserver {
 public:
  /// All outlive it. It is an observer of `vm`, behind `devices`.
  struct Parts {
    const VmConfig& config;
    MainLoop& loop;
    Vm& vm;
    Accel& accel;
    PcMachine& board;
    Storage& storage;
    UserDevices& devices;
  };
  explicit MovedMachine(const Parts& parts) : parts_(parts) {}

  migration::Manifest manifest() override REQUIRES(bql);
  std::vector<std::shared_ptr<memory::RamBlock>> ram() override REQUIRES(bql);

  Result<void> start_dirty_log() override REQUIRES(bql);
  void stop_dirty_log() override REQUIRES(bql);
  void throttle(unsigned percent) override REQUIRES(bql);
  Result<void> stop() override REQUIRES(bql);
  bool ran() const override REQUIRES(bql);
  Result<std::vector<migration::DeviceState>> save() override REQUIRES(bql);
  void resume() override REQUIRES(bql);
  void leave() override REQUIRES(bql);
  void stay() override REQUIRES(bql);

  bool run_on_arrival() const override REQUIRES(bql);
  Result<void> load(const std::vector<migration::DeviceState>& states) override REQUIRES(bql);
  Result<void> run() override REQUIRES(bql);

  Result<void> take_locks() override REQUIRES(bql);
  Result<void> release_locks() override REQUIRES(bql);

  /// Ends inmigrate for a machine that does not run by itself: in the state that it had there.
  void arrive() REQUIRES(bql);

  /// A machine that was loaded looks at what waits for it.
  void resumed() override;

 private:
  /// One that a state is of; without a device: a unit, whose adapter has its state.
  struct Moved {
    std::string path;
    std::string kind;
    devices::Device* device = nullptr;
    std::string settings;
  };
  std::vector<Moved> moved_devices() const REQUIRES(bql);
  Result<void> check_at_rest() REQUIRES(bql);
  Result<void> load_accel(const migration::DeviceState& state) REQUIRES(bql);
  Result<void> load_run_state(const migration::DeviceState& state) REQUIRES(bql);

  const Parts parts_;
  RunState state_there_ = RunState::kPaused;
  bool loaded_ = false;  // and has not run since
};

}  // namespace rhea::vmm
