#include "vmm/scsi_device_bus.h"

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
    on_bus_ = added.has_value();
    return added;
  }
  // Its requests are cancelled and do not take long, unless the host does not answer.
  void prepare_to_leave(std::function<void()>) override REQUIRES(bql) {}
  bool idle() const override REQUIRES(bql) { return true; }
  Result<void> leave() override REQUIRES(bql) {
    TRY(bus_.remove(*unit_));
    on_bus_ = false;
    return ok();
  }
  void stay() override REQUIRES(bql) {}
  void unplug() override REQUIRES(bql) {
    while (on_bus_) {
      if (const auto left = leave(); !left) {
        RHEA_LOG(kVmm, kWarn, "{} can not go yet: {}", unit_->name(), left.error().message());
      }
    }
    unit_->unrealize();
  }
  /// The adapter tells its driver when it has gone. [virtio-1.2 5.6.6.3.1]
  std::optional<unsigned> hotplug_slot() const override REQUIRES(bql) { return std::nullopt; }

 private:
  ScsiBus& bus_;
  const std::shared_ptr<devices::ScsiUnit> unit_;
  bool on_bus_ = false;
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
