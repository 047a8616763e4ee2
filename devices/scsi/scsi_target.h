// What a SCSI target answers for itself, whatever unit is meant, or if none is there.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "devices/scsi/scsi_request.h"

namespace rhea::devices::scsi_target {

/// The LUN of the well-known unit that lists the others. [SAM-5 4.7.7]
inline constexpr uint16_t kReportLunsUnit = 0xc101;

/// The operation codes that are no unit's business alone. [SPC-4 table 142, MMC-6 6.1]
enum class Opcode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kInquiry = 0x12,
  kGetConfiguration = 0x46,
  kGetEventStatus = 0x4a,
  kReportLuns = 0xa0,
};
Opcode opcode_of(const ScsiRequest& request);
/// Whether a unit that has a unit attention condition tells it instead of carrying out the command.
/// [SAM-5 5.14.7] [MMC-6 4.1.6.1]
bool is_told_attention(Opcode opcode);

/// Why a REPORT LUNS or a REQUEST SENSE can not be carried out, if so.
std::optional<ScsiOutcome> refuse(const ScsiRequest& request);
/// `luns` in ascending order, without the well-known unit. [SPC-4 6.33]
ScsiOutcome report_luns(ScsiRequest& request, std::span<const uint16_t> luns);
/// [SPC-4 6.39]
ScsiOutcome request_sense(ScsiRequest& request, const ScsiSense& sense);
/// Any other command at a LUN where no unit is. [SPC-4 6.4.1]
ScsiOutcome at_no_unit(ScsiRequest& request);
/// Any other command to the well-known unit. [SPC-4 8.2]
ScsiOutcome at_well_known_unit(ScsiRequest& request);

}  // namespace rhea::devices::scsi_target
