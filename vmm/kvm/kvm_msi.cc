#include "vmm/kvm/kvm_msi.h"

#include <utility>

#include "util/fd.h"
#include "util/sync_point.h"
#include "vmm/event_vector.h"

namespace rhea::vmm {
namespace {

using devices::MsiMessage;

/// Stores to this megabyte are interrupts, all others are plain stores. [SDM vol. 3, 11.11.1]
bool is_interrupt(const MsiMessage& message) {
  constexpr unsigned kMegabyte = 20;
  constexpr uint64_t kLocalApics = 0xfee;
  return message.address >> kMegabyte == kLocalApics;
}

class KvmMsiVector final : public EventVector {
 public:
  KvmMsiVector(Fd event, KvmIrqs& irqs, unsigned gsi)
      : EventVector(std::move(event)), irqs_(irqs), gsi_(gsi) {}
  ~KvmMsiVector() override {
    bql.assert_held();
    detach();
    irqs_.release_gsi(gsi_);
  }

  Result<void> connect(const MsiMessage& message) override REQUIRES(bql) {
    auto done = try_connect(message);
    // Half connected would deliver to where the guest does not want it any more.
    if (!done) detach();
    return done;
  }
  void disconnect() override REQUIRES(bql) { detach(); }

 private:
  Result<void> try_connect(const MsiMessage& message) REQUIRES(bql) {
    if (!is_interrupt(message)) {
      return fail(ErrorKind::kInvalidArgument, "a store to {:#x} is not an interrupt",
                  message.address);
    }
    TRY(irqs_.route_gsi(gsi_, message));
    RHEA_SYNC_POINT("KvmMsi::connect: routed, perhaps not yet attached");
    if (attached_) return ok();
    TRY(irqs_.attach_eventfd(gsi_, event()));
    attached_ = true;
    RHEA_SYNC_POINT("KvmMsi::connect: attached");
    return ok();
  }

  void detach() REQUIRES(bql) {
    if (!std::exchange(attached_, false)) return;
    RHEA_SYNC_POINT("KvmMsi::disconnect: still attached");
    MUST(irqs_.detach_eventfd(gsi_, event()));
    RHEA_SYNC_POINT("KvmMsi::disconnect: detached");
  }

  KvmIrqs& irqs_;
  const unsigned gsi_;
  bool attached_ GUARDED_BY(bql) = false;
};

}  // namespace

Result<std::unique_ptr<devices::MsiVector>> KvmMsi::add_vector() {
  Fd event = TRY(make_eventfd());
  const unsigned gsi = TRY(irqs_.reserve_gsi());
  return std::make_unique<KvmMsiVector>(std::move(event), irqs_, gsi);
}

}  // namespace rhea::vmm
