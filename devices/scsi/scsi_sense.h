// ScsiSense: why a SCSI command did not do what it was asked for. [SPC-4 4.5]
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace rhea::devices {

/// [SAM-5 5.3.1]
enum class ScsiStatus : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kConditionMet = 0x04,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
  kTaskAborted = 0x40,
};

/// [SPC-4 4.5.6]
enum class ScsiSenseKey : uint8_t {
  kNoSense = 0x0,
  kRecoveredError = 0x1,
  kNotReady = 0x2,
  kMediumError = 0x3,
  kHardwareError = 0x4,
  kIllegalRequest = 0x5,
  kUnitAttention = 0x6,
  kDataProtect = 0x7,
  kAbortedCommand = 0xb,
  kMiscompare = 0xe,
};

/// Sense data before it is written in one of its two formats.
struct ScsiSense {
  ScsiSenseKey key = ScsiSenseKey::kNoSense;
  uint8_t asc = 0, ascq = 0;              ///< additional sense code and its qualifier
  std::optional<uint64_t> information{};  ///< the block that it happened at
  bool operator==(const ScsiSense&) const = default;
};

inline constexpr size_t kFixedSenseSize = 18;
/// Writes current sense data in the fixed format [SPC-4 4.5.3], as much of it as `out` holds; how
/// much that was.
size_t write_fixed_sense(const ScsiSense& sense, std::span<std::byte> out) noexcept;
/// The same in the descriptor format [SPC-4 4.5.2].
size_t write_descriptor_sense(const ScsiSense& sense, std::span<std::byte> out) noexcept;

/// What the command set answers with. [SPC-4 annex F]
namespace sense {
using enum ScsiSenseKey;
inline constexpr ScsiSense kNone{};
inline constexpr ScsiSense kInvalidOpcode{kIllegalRequest, 0x20, 0x00};
inline constexpr ScsiSense kLbaOutOfRange{kIllegalRequest, 0x21, 0x00};
inline constexpr ScsiSense kInvalidField{kIllegalRequest, 0x24, 0x00};
inline constexpr ScsiSense kLunNotSupported{kIllegalRequest, 0x25, 0x00};
inline constexpr ScsiSense kInvalidParameter{kIllegalRequest, 0x26, 0x00};
inline constexpr ScsiSense kParameterListLength{kIllegalRequest, 0x1a, 0x00};
inline constexpr ScsiSense kSavingNotSupported{kIllegalRequest, 0x39, 0x00};
inline constexpr ScsiSense kRemovalPrevented{kIllegalRequest, 0x53, 0x02};
inline constexpr ScsiSense kManualIntervention{kNotReady, 0x04, 0x03};
inline constexpr ScsiSense kNoMedium{kNotReady, 0x3a, 0x00};
inline constexpr ScsiSense kNoMediumTrayOpen{kNotReady, 0x3a, 0x02};
inline constexpr ScsiSense kReadError{kMediumError, 0x11, 0x00};
inline constexpr ScsiSense kWriteError{kMediumError, 0x0c, 0x00};
inline constexpr ScsiSense kTargetFailure{kHardwareError, 0x44, 0x00};
inline constexpr ScsiSense kIoProcessTerminated{kAbortedCommand, 0x00, 0x06};
inline constexpr ScsiSense kSpaceAllocFailed{kDataProtect, 0x27, 0x07};
inline constexpr ScsiSense kWriteProtected{kDataProtect, 0x27, 0x00};
inline constexpr ScsiSense kMiscompareVerify{kMiscompare, 0x1d, 0x00};
inline constexpr ScsiSense kPowerOn{kUnitAttention, 0x29, 0x01};
inline constexpr ScsiSense kBusReset{kUnitAttention, 0x29, 0x02};
inline constexpr ScsiSense kDeviceReset{kUnitAttention, 0x29, 0x03};
inline constexpr ScsiSense kNexusLoss{kUnitAttention, 0x29, 0x07};
inline constexpr ScsiSense kMediumChanged{kUnitAttention, 0x28, 0x00};
inline constexpr ScsiSense kCapacityChanged{kUnitAttention, 0x2a, 0x09};
inline constexpr ScsiSense kLunsChanged{kUnitAttention, 0x3f, 0x0e};
}  // namespace sense

}  // namespace rhea::devices
