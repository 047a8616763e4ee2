// QtestAccel: a machine whose guest code nobody runs; a qtest client drives its registers instead.
#pragma once

#include <vector>

#include "vmm/accel.h"
#include "vmm/qtest_irq.h"

namespace rhea::vmm {

/// See Accel. There are no vCPUs, so holding and pausing them is done at once.
class QtestAccel final : public Accel {
 public:
  devices::IrqSink& irqs() override { return irqs_; }
  IrqInterceptor& interceptor() noexcept { return irqs_; }

  Result<void> attach(memory::AddressSpace&, memory::AddressSpace&) override REQUIRES(bql) {
    return ok();
  }
  Result<void> create_vcpus(const SmpConfig&, VcpuEvents&) override REQUIRES(bql) { return ok(); }
  void hold_vcpus() override REQUIRES(bql) {}
  void pause_vcpus() override REQUIRES(bql) {}
  void resume_vcpus() override REQUIRES(bql) {}
  Result<void> reset(const BootState&) override REQUIRES(bql) { return ok(); }
  void shut_down() override REQUIRES(bql) {}
  std::vector<VcpuInfo> vcpus() const override { return {}; }
  bool is_kvm() const noexcept override { return false; }

 private:
  QtestIrqController irqs_;
};

}  // namespace rhea::vmm
