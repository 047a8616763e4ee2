// Numbers of the virtio specification, version 1.2, that more than one file needs.
#pragma once

#include <cstdint>

#include "util/endian.h"

namespace rhea::devices {

/// [virtio-1.2 2.1]
enum class VirtioStatus : uint8_t {
  kAcknowledge = 1,
  kDriver = 2,
  kDriverOk = 4,
  kFeaturesOk = 8,
  kNeedsReset = 64,
  kFailed = 128,
};

/// Feature bits, as masks. [virtio-1.2 6]
enum class VirtioFeature : uint64_t {
  kIndirectDesc = uint64_t{1} << 28,
  kEventIdx = uint64_t{1} << 29,
  kVersion1 = uint64_t{1} << 32,
  kRingReset = uint64_t{1} << 40,
};
constexpr uint64_t bit(VirtioFeature feature) { return static_cast<uint64_t>(feature); }

inline constexpr uint16_t kMaxQueueSize = 1024;
inline constexpr uint16_t kNoVector = 0xffff;  ///< VIRTIO_MSI_NO_VECTOR [virtio-1.2 4.1.4.3]

/// A descriptor. [virtio-1.2 2.7.5]
struct VirtqDesc {
  le64 address;
  le32 length;
  le16 flags;
  le16 next;
};
static_assert(sizeof(VirtqDesc) == 16);

enum class VirtqDescFlag : uint16_t { kNext = 1, kWrite = 2, kIndirect = 4 };

/// [virtio-1.2 2.7.8]
struct VirtqUsedElem {
  le32 id;
  le32 length;
};
static_assert(sizeof(VirtqUsedElem) == 8);

inline constexpr uint16_t kAvailNoInterrupt = 1;  ///< [virtio-1.2 2.7.6]
inline constexpr uint16_t kUsedNoNotify = 1;      ///< [virtio-1.2 2.7.8]

}  // namespace rhea::devices
