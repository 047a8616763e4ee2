// How a virtio function is saved and loaded.
#include <utility>

#include "devices/saved_device.h"
#include "devices/virtio/virtio_pci.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kIsrBits = 0x03;

}  // namespace

std::vector<uint8_t> VirtioPci::save() {
  VirtioPciState state;
  // First: it may end with an interrupt.
  state.virtio = device_->driver_state();
  state.pci = pci_state();
  state.msix = msix_.state();
  state.device_feature_select = device_feature_select_;
  state.driver_feature_select = driver_feature_select_;
  state.queue_select = queue_select_;
  state.config_vector = config_vector_;
  for (const auto& vector : queue_vectors_) state.queue_vectors.push_back({vector.load()});
  state.isr = isr_.load();
  state.withheld = withheld_.load();
  return device_->save(std::move(state));
}

Result<std::move_only_function<void()>> VirtioPci::prepare_load(std::span<const uint8_t> bytes) {
  VirtioLoaded loaded = TRY(device_->decode(bytes));
  if (auto checked = check_function(loaded.function); !checked) {
    return std::move(checked).error().context(id());
  }
  return std::move_only_function<void()>([this, loaded = std::move(loaded)]() mutable {
    bql.assert_held();
    set_function(loaded.function);
    loaded.set_own();
  });
}

Result<void> VirtioPci::check_function(const VirtioPciState& state) const {
  TRY(check_pci_state(state.pci));
  TRY(msix_.check_state(state.msix));
  if (state.queue_vectors.size() != queue_vectors_.size()) {
    return bad_state("queue_vectors", "{} queues, expected {}", state.queue_vectors.size(),
                     queue_vectors_.size());
  }
  const auto check_vector = [this](std::string_view field, uint16_t vector) -> Result<void> {
    if (vector == kNoVector) return ok();
    return check_at_most(field, vector, msix_.vectors() - 1);
  };
  for (const auto& [vector] : state.queue_vectors) TRY(check_vector("queue_vectors", vector));
  TRY(check_vector("config_vector", state.config_vector));
  TRY(check_bits("isr", state.isr, kIsrBits));
  return device_->check_driver_state(state.virtio);
}

void VirtioPci::set_function(const VirtioPciState& state) {
  device_->set_driver_state(state.virtio);  // first: it resets what was there, us included
  set_pci_state(state.pci);
  msix_.set_state(state.msix, config());
  msix_on_ = msix_.enabled();
  device_feature_select_ = state.device_feature_select;
  driver_feature_select_ = state.driver_feature_select;
  driver_features_ = state.virtio.driver_features;
  queue_select_ = state.queue_select;
  config_vector_ = state.config_vector;
  for (size_t i = 0; i < queue_vectors_.size(); ++i) {
    queue_vectors_[i] = state.queue_vectors[i].vector;
  }
  isr_ = state.isr;
  withheld_ = state.withheld;
  update_bus_master();
  // Its bottom half may have been under way.
  if (!msix_on_ && state.isr != 0) set_intx(true);
}

}  // namespace rhea::devices
