// How far a driver has come, as bits of the status register. [virtio-1.2 2.1]
#pragma once

#include <cstdint>
#include <utility>

#include "devices/virtio/virt_queue.h"
#include "devices/virtio/virtio_spec.h"

namespace rhea::devices::internal {

constexpr uint8_t bits(auto... status) {
  return static_cast<uint8_t>((std::to_underlying(status) | ... | 0));
}
inline constexpr uint8_t kFound = bits(VirtioStatus::kAcknowledge);
inline constexpr uint8_t kDriven = bits(VirtioStatus::kAcknowledge, VirtioStatus::kDriver);
inline constexpr uint8_t kNegotiated =
    bits(VirtioStatus::kAcknowledge, VirtioStatus::kDriver, VirtioStatus::kFeaturesOk);
inline constexpr uint8_t kLive = bits(VirtioStatus::kAcknowledge, VirtioStatus::kDriver,
                                      VirtioStatus::kFeaturesOk, VirtioStatus::kDriverOk);
/// The driver's progress, without the bits that can be set at any time.
inline constexpr uint8_t kProgress = kLive;

inline bool has(uint64_t features, VirtioFeature feature) { return (features & bit(feature)) != 0; }

inline VirtQueue::Features ring_features(uint64_t features) {
  unsigned set = 0;
  if (has(features, VirtioFeature::kIndirectDesc)) set |= 1;
  if (has(features, VirtioFeature::kEventIdx)) set |= 2;
  return static_cast<VirtQueue::Features>(set);
}

}  // namespace rhea::devices::internal
