// KvmAccel: a machine on the kernel's KVM.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/accel.h"
#include "vmm/kvm/dirty_tracking.h"
#include "vmm/kvm/kvm_irqs.h"
#include "vmm/kvm/kvm_msi.h"
#include "vmm/kvm/kvm_slots.h"
#include "vmm/kvm/kvm_state.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/vcpu_thread.h"

namespace rhea::vmm {

/// See Accel.
/// Owns: the KVM VM, its vCPUs and their threads.
class KvmAccel final : public Accel {
 public:
  /// Errors: see KvmVm::create() and enable_dirty_tracking().
  /// `clock` is the machine's; it is part of the state.
  static Result<std::unique_ptr<KvmAccel>> create(VmClock& clock,
                                                  const DirtyTrackingConfig& dirty = {})
      REQUIRES(bql);
  ~KvmAccel() override;

  devices::IrqSink& irqs() override { return irqs_; }
  devices::MsiRouter& msi() override { return msi_; }
  Result<void> attach(memory::AddressSpace& memory, memory::AddressSpace& io) override
      REQUIRES(bql);
  Result<void> create_vcpus(const SmpConfig& smp, VcpuEvents& events) override REQUIRES(bql);
  void hold_vcpus() override REQUIRES(bql);
  void pause_vcpus() override REQUIRES(bql);
  void resume_vcpus() override REQUIRES(bql);
  void throttle_vcpus(unsigned percent) override REQUIRES(bql);
  Result<void> reset(const BootState& boot) override REQUIRES(bql);
  void shut_down() override REQUIRES(bql);
  Result<std::vector<StateSection>> save_state() override REQUIRES(bql);
  Result<std::unique_ptr<PreparedState>> prepare_state(
      std::span<const StateSection> sections) override REQUIRES(bql);
  std::string describe_state() const override { return describe_sections(); }
  std::string settings() const override REQUIRES(bql);
  std::vector<VcpuInfo> vcpus() const override;
  bool is_kvm() const noexcept override { return true; }

  KvmVm& vm() noexcept { return *vm_; }
  KvmIrqs& kvm_irqs() noexcept { return irqs_; }
  DirtyTracking dirty_tracking() const noexcept { return dirty_tracking_; }
  VcpuThread& vcpu_thread(size_t index) { return *threads_.at(index); }

 private:
  class Prepared;

  KvmAccel(std::unique_ptr<KvmVm> vm, VmClock& clock, DirtyTracking dirty_tracking,
           uint32_t ring_entries);
  KvmMachine machine();
  Result<void> apply(const KvmState& state) REQUIRES(bql);
  bool all_stand_still() const REQUIRES(bql);

  const std::unique_ptr<KvmVm> vm_;
  VmClock& clock_;
  const DirtyTracking dirty_tracking_;
  KvmIrqs irqs_;
  KvmMsi msi_;
  // Also the address space's, which may keep it for a grace period longer than it lives.
  const std::shared_ptr<KvmSlots> slots_;
  memory::AddressSpace* memory_ = nullptr;
  memory::AddressSpace* io_ = nullptr;
  SmpConfig smp_;
  std::unique_ptr<VcpuShared> shared_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  // kvmclock at the moment the vCPUs stood still, here or where their state was saved; empty while
  // they run and before they first did.
  std::optional<uint64_t> paused_clock_ GUARDED_BY(bql);
  bool running_ GUARDED_BY(bql) = false;
};

}  // namespace rhea::vmm
