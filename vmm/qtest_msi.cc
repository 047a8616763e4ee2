#include "vmm/qtest_msi.h"

#include <utility>

#include "util/check.h"
#include "util/fd.h"
#include "vmm/event_vector.h"

namespace rhea::vmm {

class QtestMsi::Vector final : public EventVector {
 public:
  Vector(Fd event, QtestMsi& router) : EventVector(std::move(event)), router_(router) {}
  ~Vector() override { bql.assert_held(); }

  Result<void> connect(const devices::MsiMessage& message) override REQUIRES(bql) {
    message_ = message;
    if (watch_) return ok();
    watch_ = TRY(router_.context_.watch(event(), FdEvents::kRead, [this](FdEvents) {
      bql.assert_held();
      deliver();
    }));
    return ok();
  }
  void disconnect() override REQUIRES(bql) { watch_ = FdWatch(); }

 private:
  void deliver() REQUIRES(bql) {
    if (!clear_eventfd(event())) return;
    RHEA_CHECK(router_.memory_ != nullptr);
    // The store may reach the table that this vector is in. It comes last.
    router_.memory_->store(memory::GuestAddr{message_.address}, message_.data,
                           sizeof message_.data);
  }

  QtestMsi& router_;
  devices::MsiMessage message_ GUARDED_BY(bql);
  FdWatch watch_ GUARDED_BY(bql);
};

Result<std::unique_ptr<devices::MsiVector>> QtestMsi::add_vector() {
  Fd event = TRY(make_eventfd());
  return std::make_unique<Vector>(std::move(event), *this);
}

}  // namespace rhea::vmm
