// What CD drives tell of themselves and their media, as bytes. [MMC-6]
#pragma once

#include <cstdint>
#include <optional>

#include "devices/scsi/scsi_reply.h"
#include "devices/scsi/scsi_sense.h"
#include "devices/scsi/scsi_tray.h"

namespace rhea::devices::mmc {

inline constexpr uint32_t kBlockSize = 2048;
/// The media that there are: one track of data in one session, which is finished.
enum class Medium : uint8_t { kNone, kCd, kDvd };
/// A CD has no more blocks than minutes, seconds and frames can tell of.
Medium medium_of(uint64_t blocks);

/// READ TOC/PMA/ATIP. [MMC-6]
struct TocRequest {
  uint8_t format = 0;
  bool in_msf = false;
  uint8_t start = 0;  ///< a track, or a session
};
/// The reason, if there is no such table.
std::optional<ScsiSense> put_toc(const TocRequest& request, uint64_t blocks, ScsiReply& reply);

/// GET CONFIGURATION. [MMC-6]
enum class Features : uint8_t { kAll, kCurrent, kOne };
void put_configuration(Features which, uint16_t from, Medium medium, ScsiReply& reply);

/// READ DISC INFORMATION, the standard kind. [MMC-6]
void put_disc_information(ScsiReply& reply);

/// GET EVENT STATUS NOTIFICATION: of the medium, or that no other class is there. [MMC-6]
inline constexpr uint8_t kMediaClass = 4;
void put_media_event(ScsiTray::Event event, const ScsiTray& tray, ScsiReply& reply);
void put_no_event(ScsiReply& reply);

/// MECHANISM STATUS. [MMC-6]
void put_mechanism_status(const ScsiTray& tray, ScsiReply& reply);

/// The mode page of capabilities, without its header. [MMC-6]
inline constexpr uint8_t kCapabilitiesPage = 0x2a;
inline constexpr uint8_t kCapabilitiesSize = 22;
void put_capabilities(bool locked, std::span<uint8_t> page);

}  // namespace rhea::devices::mmc
