// Accel: who runs the guest's instructions: KVM, or nobody (qtest).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/irq.h"
#include "devices/msi.h"
#include "memory/address_space.h"
#include "util/bql.h"
#include "util/error.h"
#include "vmm/accel_state.h"
#include "vmm/boot/boot_state.h"
#include "vmm/config.h"
#include "vmm/vm_control.h"

namespace rhea::vmm {

/// What a vCPU meets that concerns the whole machine.
/// Thread: the vCPU, BQL held. The vCPU is already asked to hold when these are called.
class VcpuEvents {
 public:
  virtual ~VcpuEvents() = default;
  /// A triple fault: the machine resets.
  virtual void triple_fault() = 0;
  /// KVM can not go on. `report` has the registers and the code bytes, several lines.
  virtual void internal_error(std::string report) = 0;
};

/// The engine under a machine.
/// Thread: main with the BQL held, but for irqs(), whose lines any thread may set.
/// Invariants: vCPUs are created standing still; they run between resume_vcpus() and pause_vcpus().
class Accel {
 public:
  virtual ~Accel() = default;

  virtual devices::IrqSink& irqs() = 0;
  /// Its vectors are gone before it goes.
  virtual devices::MsiRouter& msi() = 0;
  /// Follows the two address spaces from here on. irqs() takes levels once this has returned, so
  /// RAM stands in `memory` before the call and devices come after it.
  virtual Result<void> attach(memory::AddressSpace& memory, memory::AddressSpace& io)
      REQUIRES(bql) = 0;
  /// Makes `smp.cpus` vCPUs and their threads. After attach().
  virtual Result<void> create_vcpus(const SmpConfig& smp, VcpuEvents& events) REQUIRES(bql) = 0;

  /// Asks every vCPU to stand still, and does not wait. Any thread with the BQL.
  virtual void hold_vcpus() REQUIRES(bql) = 0;
  /// Returns when every vCPU stands still. Releases the BQL while it waits, so it is called at top
  /// level with no operation half done.
  virtual void pause_vcpus() REQUIRES(bql) = 0;
  virtual void resume_vcpus() REQUIRES(bql) = 0;
  /// Has each vCPU stand still for `percent` of the time, 0 to 99, whenever they run, until it is
  /// told something else. Time goes on for the guest meanwhile. One that the host has no timer for
  /// runs on, which is logged.
  virtual void throttle_vcpus(unsigned percent) REQUIRES(bql) = 0;
  /// Puts interrupt controllers and vCPUs into their power-on state, then the first vCPU into
  /// `boot`. Only while they stand still.
  virtual Result<void> reset(const BootState& boot) REQUIRES(bql) = 0;
  /// Ends the vCPU threads; nothing runs the guest any more.
  virtual void shut_down() REQUIRES(bql) = 0;

  /// All that the guest can notice of vCPUs, interrupt controllers and clocks, the VmClock among
  /// them. While they stand still, and before the devices' state is saved or after: it is apart.
  virtual Result<std::vector<StateSection>> save_state() REQUIRES(bql) = 0;
  /// Decodes what save_state() of another instance returned and checks it against this machine.
  /// Applied before the devices load, which set their interrupt lines again: KVM does not keep
  /// who holds a line up. Errors: kCorrupt, kUnsupported; nothing has changed.
  virtual Result<std::unique_ptr<PreparedState>> prepare_state(
      std::span<const StateSection> sections) REQUIRES(bql) = 0;
  /// The text of the descriptions behind the sections (state_schema()).
  virtual std::string describe_state() const = 0;
  /// What has to be equal where its state is loaded; see devices::Device. After create_vcpus().
  virtual std::string settings() const REQUIRES(bql) = 0;

  virtual std::vector<VcpuInfo> vcpus() const = 0;
  virtual bool is_kvm() const noexcept = 0;
};

}  // namespace rhea::vmm
