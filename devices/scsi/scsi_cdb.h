// ScsiCdb: what a command descriptor block says. [SPC-4 4.2]
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/scsi/scsi_request.h"

namespace rhea::devices {

/// The commands that units know, and those that they are asked for and refuse.
enum class ScsiOpcode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kRead6 = 0x08,
  kWrite6 = 0x0a,
  kInquiry = 0x12,
  kModeSelect6 = 0x15,
  kModeSense6 = 0x1a,
  kStartStopUnit = 0x1b,
  kSendDiagnostic = 0x1d,
  kPreventAllow = 0x1e,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2a,
  kSeek10 = 0x2b,
  kWriteAndVerify10 = 0x2e,
  kVerify10 = 0x2f,
  kSynchronizeCache10 = 0x35,
  kWriteSame10 = 0x41,
  kUnmap = 0x42,
  kReadToc = 0x43,
  kGetConfiguration = 0x46,
  kGetEventStatus = 0x4a,
  kReadDiscInformation = 0x51,
  kModeSelect10 = 0x55,
  kModeSense10 = 0x5a,
  kPersistentReserveIn = 0x5e,
  kPersistentReserveOut = 0x5f,
  kVariableLength = 0x7f,
  kRead16 = 0x88,
  kWrite16 = 0x8a,
  kWriteAndVerify16 = 0x8e,
  kVerify16 = 0x8f,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9e,
  kReportLuns = 0xa0,
  kMaintenanceIn = 0xa3,
  kRead12 = 0xa8,
  kWrite12 = 0xaa,
  kWriteAndVerify12 = 0xae,
  kVerify12 = 0xaf,
  kMechanismStatus = 0xbd,
};

/// A view of a CDB, with the fields that commands of one length have at the same place.
class ScsiCdb {
 public:
  using Bytes = std::span<const uint8_t, ScsiRequest::kCdbSize>;
  explicit ScsiCdb(Bytes bytes) : bytes_(bytes) {}

  /// How long the CDBs are that start like this; 0 if nobody knows (reserved and vendor's groups,
  /// or longer than any that is carried).
  size_t size() const noexcept;

  uint8_t opcode() const noexcept { return bytes_[0]; }
  uint8_t operator[](size_t at) const noexcept { return bytes_[at]; }
  bool has(size_t at, uint8_t mask) const noexcept { return (bytes_[at] & mask) != 0; }
  /// `count` bytes from `at` on, the highest first.
  uint64_t be(size_t at, size_t count) const noexcept;

  /// The blocks that a command is about: of all that name some. Of the 6-byte CDBs, no blocks means
  /// 256. [SBC-3 5]
  struct Range {
    uint64_t lba = 0;
    uint64_t blocks = 0;
  };
  Range range() const noexcept;
  /// The allocation or parameter list length where most commands have it. [SPC-4 4.2]
  uint32_t list_length() const noexcept;

 private:
  Bytes bytes_;
};

}  // namespace rhea::devices
