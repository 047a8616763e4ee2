// What the SCSI host device and its driver write to each other. [virtio-1.2 5.6]
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "devices/scsi/scsi_request.h"
#include "devices/scsi/scsi_target.h"
#include "util/endian.h"

namespace rhea::devices {

/// [virtio-1.2 5.6.3]
enum class VirtioScsiFeature : uint64_t { kHotplug = 1 << 1, kChange = 1 << 2 };

/// The queues in front of those for requests. [virtio-1.2 5.6.2]
inline constexpr unsigned kScsiControlQueue = 0, kScsiEventQueue = 1, kScsiRequestQueues = 2;

/// [virtio-1.2 5.6.4]
struct VirtioScsiConfigSpace {
  le32 num_queues;
  le32 seg_max;
  le32 max_sectors;
  le32 cmd_per_lun;
  le32 event_info_size;
  le32 sense_size;
  le32 cdb_size;
  le16 max_channel;
  le16 max_target;
  le32 max_lun;
};
static_assert(sizeof(VirtioScsiConfigSpace) == 36);
inline constexpr uint32_t kDefaultSenseSize = 96, kDefaultCdbSize = 32;
/// What a driver may make of them: no sense data and no command is longer. [SPC-4 4.5.2.1, 4.2.3]
inline constexpr uint32_t kMaxSenseSize = 252, kMaxCdbSize = 260;

using VirtioScsiLun = std::array<uint8_t, 8>;

/// In front of a command. [virtio-1.2 5.6.6.1]
struct VirtioScsiRequestHead {
  VirtioScsiLun lun;
  le64 id;
  uint8_t task_attribute;
  uint8_t priority;
  uint8_t crn;
};
static_assert(sizeof(VirtioScsiRequestHead) == 19);

/// In front of the sense data.
struct VirtioScsiResponseHead {
  le32 sense_length;
  le32 residual;
  le16 status_qualifier;
  uint8_t status;
  uint8_t response;
};
static_assert(sizeof(VirtioScsiResponseHead) == 12);

/// [virtio-1.2 5.6.6.1, 5.6.6.2]
enum class VirtioScsiResponse : uint8_t {
  kOk = 0,  ///< and "function complete"
  kOverrun = 1,
  kAborted = 2,
  kBadTarget = 3,
  kReset = 4,
  kFailure = 9,
  kFunctionSucceeded = 10,
  kFunctionRejected = 11,
  kIncorrectLun = 12,
};

/// [virtio-1.2 5.6.6.2]
enum class VirtioScsiControl : uint32_t {
  kTaskManagement = 0,
  kNotificationQuery = 1,
  kNotificationSubscribe = 2,
};
enum class VirtioScsiTask : uint32_t {
  kAbortTask = 0,
  kAbortTaskSet = 1,
  kClearAca = 2,
  kClearTaskSet = 3,
  kNexusReset = 4,
  kUnitReset = 5,
  kQueryTask = 6,
  kQueryTaskSet = 7,
};
struct VirtioScsiTaskManagement {
  le32 type;
  le32 subtype;
  VirtioScsiLun lun;
  le64 id;
};
static_assert(sizeof(VirtioScsiTaskManagement) == 24);
struct VirtioScsiNotification {
  le32 type;
  VirtioScsiLun lun;
  le32 requested;
};
static_assert(sizeof(VirtioScsiNotification) == 16);
struct VirtioScsiNotificationAnswer {
  le32 actual;
  uint8_t response;
};
static_assert(sizeof(VirtioScsiNotificationAnswer) == 5);

/// [virtio-1.2 5.6.6.3]
enum class VirtioScsiEventKind : uint32_t {
  kNone = 0,
  kTransportReset = 1,
  kParameterChange = 3,
  kMissed = 0x8000'0000,  ///< a flag
};
/// Of a transport reset.
enum class VirtioScsiResetReason : uint32_t { kRescan = 1, kRemoved = 2 };
struct VirtioScsiEvent {
  le32 event;
  VirtioScsiLun lun;
  le32 reason;
};
static_assert(sizeof(VirtioScsiEvent) == 16);

/// A unit as a driver and the events name it: a single level LUN structure behind the target, or
/// the well-known unit without a target, which is the first target's. Nothing for any other form.
constexpr std::optional<ScsiAddress> decode_lun(const VirtioScsiLun& lun) {
  constexpr uint8_t kFlatSpace = 0x40, kMethod = 0xc0;
  constexpr uint16_t kNumber = 0x3fff;
  const auto level = static_cast<uint16_t>(lun[2] << 8 | lun[3]);
  for (size_t i = 4; i < lun.size(); ++i) {
    if (lun[i] != 0) return std::nullopt;
  }
  if ((lun[0] << 8 | lun[1]) == scsi_target::kReportLunsUnit && level == 0) {
    return ScsiAddress{.lun = scsi_target::kReportLunsUnit};
  }
  if (lun[0] != 1) return std::nullopt;
  ScsiAddress address{.target = lun[1]};
  if (level == scsi_target::kReportLunsUnit) {
    address.lun = level;
    return address;
  }
  if (lun[2] != 0 && (lun[2] & kMethod) != kFlatSpace) return std::nullopt;
  address.lun = level & kNumber;
  return address;
}

/// As REPORT LUNS says it, behind the target.
constexpr VirtioScsiLun encode_lun(const ScsiAddress& address) {
  constexpr uint16_t kFlatSpace = 0x4000, kPeripherals = 256;
  const auto level =
      static_cast<uint16_t>(address.lun < kPeripherals ? address.lun : address.lun | kFlatSpace);
  return {1, address.target, static_cast<uint8_t>(level >> 8), static_cast<uint8_t>(level & 0xff)};
}

}  // namespace rhea::devices
