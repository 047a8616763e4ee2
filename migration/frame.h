// Frame: what the main connection of a migration carries. The format is described in FORMAT.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "util/error.h"

namespace rhea::migration {

enum class FrameKind : uint16_t {
  // from the source
  kHello = 1,  ///< Hello: what the machine is, and how it comes
  kPages,      ///< which pages follow, raw, behind the frame
  kSync,       ///< all pages of a pass are sent, on each of the channels
  kDevice,     ///< DeviceState: one of the saved states
  kEnd,        ///< that was all of it
  kReleased,   ///< the source has given its image locks up
  kGo,         ///< the machine is the destination's
  kFail,       ///< text: the source gives up, and why
  // from the destination
  kWelcome = 0x81,  ///< Welcome: the manifest fits
  kRefused,         ///< text: why it does not, or what is wrong with what came
  kReady,
  kAck,
};
std::string_view to_string(FrameKind kind) noexcept;

/// magic "RHEA" | kind u16 | 0 u16 | length u32 | CRC32C of these 12 bytes u32, little-endian.
/// `length` bytes follow, and the CRC32C of them.
inline constexpr size_t kFrameHeaderBytes = 16;
inline constexpr size_t kFrameTrailerBytes = 4;

struct FrameHeader {
  FrameKind kind{};
  uint32_t length = 0;  ///< of the payload, in bytes
};

/// A whole frame. Errors: none; a payload above the kind's limit is our bug.
std::vector<uint8_t> encode_frame(FrameKind kind, std::span<const uint8_t> payload);

/// Errors: kCorrupt: no frame at all, a broken one, of a kind that does not exist, or longer than
/// its kind may be. The payload need not be there yet.
Result<FrameHeader> decode_frame_header(std::span<const uint8_t, kFrameHeaderBytes> bytes);
/// `bytes`: the payload with its checksum. Errors: kCorrupt.
Result<std::span<const uint8_t>> check_frame_payload(FrameKind kind,
                                                     std::span<const uint8_t> bytes);

}  // namespace rhea::migration
