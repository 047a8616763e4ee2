// SavedVirtio: gives a kind of virtio device its own part of the saved form.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "devices/saved_device.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio/virtio_state.h"

namespace rhea::devices {

/// Own is a described struct with kKind ("virtio-blk-pci") and kVersion. The three functions are
/// those of SavedDevice.
template <class Own>
class SavedVirtio : public VirtioDevice {
 public:
  StateFormat state_format() const final {
    return {Own::kKind, Own::kVersion, state_schema<VirtioWholeState<Own>>()};
  }
  std::vector<uint8_t> save(VirtioPciState function) final REQUIRES(bql) {
    return encode_state(VirtioWholeState<Own>{std::move(function), own_state()});
  }
  Result<VirtioLoaded> decode(std::span<const uint8_t> bytes) final REQUIRES(bql) {
    auto whole = TRY(decode_state<VirtioWholeState<Own>>(id(), bytes));
    if (auto checked = check_own(whole.device); !checked) {
      return std::move(checked).error().context(id());
    }
    return VirtioLoaded{std::move(whole.function), [this, own = std::move(whole.device)] {
                          bql.assert_held();
                          set_own(own);
                        }};
  }

 protected:
  using VirtioDevice::VirtioDevice;

  virtual Own own_state() REQUIRES(bql) = 0;
  virtual Result<void> check_own(const Own& own) const REQUIRES(bql) = 0;
  /// The driver's progress has been set; no queue runs yet.
  virtual void set_own(const Own& own) REQUIRES(bql) = 0;
};

}  // namespace rhea::devices
