// KvmMsi: message-signalled interrupts that the kernel delivers by itself.
#pragma once

#include <memory>

#include "devices/msi.h"
#include "util/bql.h"
#include "util/error.h"
#include "vmm/kvm/kvm_irqs.h"

namespace rhea::vmm {

/// Each vector is an eventfd and a GSI of its own. Connected means: the GSI leads to the message
/// and KVM watches the eventfd, so that a signal reaches the vCPU without a thread of ours.
/// Disconnected, the eventfd merely counts. To let go of it and to look at it are one step in the
/// kernel, so no signal falls between the two and none is delivered twice.
///
/// Thread: BQL; see MsiRouter.
/// Errors: a message that is no interrupt (a store to anything but the local APICs' megabyte) can
/// not be connected to.
class KvmMsi final : public devices::MsiRouter {
 public:
  explicit KvmMsi(KvmIrqs& irqs) : irqs_(irqs) {}
  Result<std::unique_ptr<devices::MsiVector>> add_vector() override REQUIRES(bql);

 private:
  KvmIrqs& irqs_;
};

}  // namespace rhea::vmm
