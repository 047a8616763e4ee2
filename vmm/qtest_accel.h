// QtestAccel: a machine whose guest code nobody runs; a qtest client drives its registers instead.
#pragma once

#include <string>
#include <vector>

#include "vmm/accel.h"
#include "vmm/qtest_irq.h"
#include "vmm/qtest_msi.h"
#include "vmm/vm_clock.h"

namespace rhea::vmm {

/// See Accel. There are no vCPUs, so holding and pausing them is done at once; its state is the
/// clock.
class QtestAccel final : public Accel {
 public:
  /// `service` is main's service context, `clock` the machine's.
  QtestAccel(AioContext& service, VmClock& clock) : clock_(clock), msi_(service) {}

  devices::IrqSink& irqs() override { return irqs_; }
  devices::MsiRouter& msi() override { return msi_; }
  IrqInterceptor& interceptor() noexcept { return irqs_; }

  Result<void> attach(memory::AddressSpace& memory, memory::AddressSpace&) override REQUIRES(bql) {
    msi_.attach(memory);
    return ok();
  }
  Result<void> create_vcpus(const SmpConfig&, VcpuEvents&) override REQUIRES(bql) { return ok(); }
  void hold_vcpus() override REQUIRES(bql) {}
  void pause_vcpus() override REQUIRES(bql) {}
  void resume_vcpus() override REQUIRES(bql) {}
  void throttle_vcpus(unsigned) override REQUIRES(bql) {}
  Result<void> reset(const BootState&) override REQUIRES(bql) { return ok(); }
  void shut_down() override REQUIRES(bql) {}
  Result<std::vector<StateSection>> save_state() override REQUIRES(bql);
  Result<std::unique_ptr<PreparedState>> prepare_state(
      std::span<const StateSection> sections) override REQUIRES(bql);
  std::string describe_state() const override;
  std::string settings() const override REQUIRES(bql) { return {}; }
  std::vector<VcpuInfo> vcpus() const override { return {}; }
  bool is_kvm() const noexcept override { return false; }

 private:
  VmClock& clock_;
  QtestIrqController irqs_;
  QtestMsi msi_;
};

}  // namespace rhea::vmm
