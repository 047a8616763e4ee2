#include "vmm/scsi_device_bus.h"

#include <chrono>
#include <cstdint>
#include <utility>
#include <variant>

#include "util/log.h"
#include "vmm/device_request.h"
#include "vmm/device_table.h"

namespace rhea::vmm {
namespace {

using devices::ScsiBus;

class ScsiBusDevice final : public BusDevice {
 public:
  ScsiBusDevice(ScsiBus& bus, std::shared_ptr<devices::ScsiUnit> unit)
      : bus_(bus), unit_(std::move(unit)) {}

  Result<void> plug() override REQUIRES(bql) {
    TRY(unit_->realize());
    auto added = bus_.add(unit_);
    if (!added) unit_->unrealize();
    if (added) where_ = Where::kOnBus;
    return added;
  }
  void prepare_to_leave(std::function<void()> look) override REQUIRES(bql) {
    bus_.prepare_to_leave(*unit_, std::move(look));
    where_ = Where::kLeaving;
  }
  bool idle() const override REQUIRES(bql) { return bus_.idle(*unit_); }
  Result<void> leave() override REQUIRES(bql) {
    TRY(bus_.leave(*unit_, kLeavePatience));
    where_ = Where::kNowhere;
    return ok();
  }
  void stay() override REQUIRES(bql) {
    bus_.stay(*unit_);
    where_ = Where::kOnBus;
  }
  void unplug() override REQUIRES(bql) {
    if (where_ == Where::kOnBus) prepare_to_leave([] {});
    while (where_ == Where::kLeaving) {
      if (const auto left = leave(); !left) {
        RHEA_LOG(kVmm, kWarn, "{} can not go yet: {}", unit_->name(), left.error().message());
      }
    }
    unit_->unrealize();
  }
  /// The adapter tells its driver when it has gone. [virtio-1.2 5.6.6.3.1]
  std::optional<unsigned> hotplug_slot() const override REQUIRES(bql) { return std::nullopt; }
  std::string location() const override {
    const devices::ScsiAddress& at = unit_->address();
    return fmt::format("{}:{}:{}", at.channel, at.target, at.lun);
  }
  devices::Device* saved() const override { return nullptr; }
  std::string settings() const override REQUIRES(bql) { return unit_->settings(); }

 private:
  enum class Where : uint8_t { kNowhere, kOnBus, kLeaving };
  // It is idle, or was reset.
  static constexpr Nanoseconds kLeavePatience = std::chrono::seconds(1);

  ScsiBus& bus_;
  const std::shared_ptr<devices::ScsiUnit> unit_;
  Where where_ = Where::kNowhere;
};

Result<ScsiBus::Place> take_place(OptionReader& options) {
  ScsiBus::Place place;
  place.channel = TRY(options.take_uint("channel")).value_or(0);
  place.target = TRY(options.take_uint("scsi-id"));
  place.lun = TRY(options.take_uint("lun"));
  return place;
}

}  // namespace

bool ScsiDeviceBus::has_room() const { return bus_.choose({}).has_value(); }

Result<std::unique_ptr<BusDevice>> ScsiDeviceBus::make(const DeviceRow& row,
                                                       DeviceRequest& request) {
  const ScsiBus::Place place = TRY(take_place(request.options()));
  const devices::ScsiAddress address = TRY(bus_.choose(place));
  auto unit = TRY(std::get<DeviceRow::MakeScsi>(row.make)(request, address));
  return std::make_unique<ScsiBusDevice>(bus_, std::move(unit));
}

}  // namespace rhea::vmm
