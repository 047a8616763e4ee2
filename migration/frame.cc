#include "migration/frame.h"

#include <bit>
#include <cstring>
#include <optional>

#include "util/check.h"
#include "util/crc32c.h"
#include "util/endian.h"

namespace rhea::migration {
namespace {

constexpr std::array<uint8_t, 4> kMagic = {'R', 'H', 'E', 'A'};
constexpr uint32_t kNoPayload = 0;
constexpr uint32_t kText = 4096;
constexpr uint32_t kPageList = 64 * 1024;
constexpr uint32_t kManifest = 1024 * 1024;
constexpr uint32_t kState = 16 * 1024 * 1024;

// How long the payload of a kind may be; nothing for a kind that does not exist.
std::optional<uint32_t> limit(FrameKind kind) {
  switch (kind) {
    case FrameKind::kHello:
    case FrameKind::kWelcome:
      return kManifest;
    case FrameKind::kPages:
      return kPageList;
    case FrameKind::kDevice:
      return kState;
    case FrameKind::kSync:
    case FrameKind::kEnd:
      return kText;
    case FrameKind::kFail:
    case FrameKind::kRefused:
      return kText;
    case FrameKind::kReleased:
    case FrameKind::kGo:
    case FrameKind::kReady:
    case FrameKind::kAck:
      return kNoPayload;
  }
  return std::nullopt;
}

struct WireHeader {
  std::array<uint8_t, 4> magic = kMagic;
  le16 kind;
  le16 zero;
  le32 length;
  le32 crc32c;
};
static_assert(sizeof(WireHeader) == kFrameHeaderBytes);

uint32_t checksum(std::span<const uint8_t> bytes) { return crc32c(std::as_bytes(bytes)); }

uint32_t checksum(const WireHeader& header) {
  return crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(WireHeader, crc32c)));
}

}  // namespace

std::vector<uint8_t> encode_frame(FrameKind kind, std::span<const uint8_t> payload) {
  const auto most = limit(kind);
  RHEA_CHECK(most && payload.size() <= *most, "a frame {} of {} bytes", to_string(kind),
             payload.size());
  WireHeader header;
  header.kind = static_cast<uint16_t>(kind);
  header.length = static_cast<uint32_t>(payload.size());
  header.crc32c = checksum(header);
  const le32 trailer = checksum(payload);
  std::vector<uint8_t> frame;
  frame.reserve(sizeof header + payload.size() + sizeof trailer);
  const auto append = [&frame](std::span<const uint8_t> bytes) {
    frame.insert(frame.end(), bytes.begin(), bytes.end());
  };
  append(std::bit_cast<std::array<uint8_t, sizeof header>>(header));
  append(payload);
  append(std::bit_cast<std::array<uint8_t, sizeof trailer>>(trailer));
  return frame;
}

Result<FrameHeader> decode_frame_header(std::span<const uint8_t, kFrameHeaderBytes> bytes) {
  WireHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) return fail(ErrorKind::kCorrupt, "Not a migration stream");
  if (header.crc32c != checksum(header))
    return fail(ErrorKind::kCorrupt,
                "The migration stream is broken: a frame's header has another "
                "checksum than it says");
  const auto kind = static_cast<FrameKind>(header.kind.value());
  const auto most = limit(kind);
  if (!most || header.zero != 0)
    return fail(ErrorKind::kCorrupt, "The migration stream has a frame of unknown kind {:#x}",
                header.kind.value() | uint32_t{header.zero.value()} << 16);
  if (header.length > *most)
    return fail(ErrorKind::kCorrupt, "The migration stream has a frame {} of {} bytes, at most {}",
                to_string(kind), header.length.value(), *most);
  return FrameHeader{kind, header.length};
}

Result<std::span<const uint8_t>> check_frame_payload(FrameKind kind,
                                                     std::span<const uint8_t> bytes) {
  RHEA_CHECK(bytes.size() >= kFrameTrailerBytes, "a frame's payload of {} bytes", bytes.size());
  const auto payload = bytes.first(bytes.size() - kFrameTrailerBytes);
  le32 trailer;
  std::memcpy(&trailer, payload.data() + payload.size(), sizeof trailer);
  if (trailer != checksum(payload))
    return fail(ErrorKind::kCorrupt,
                "The migration stream is broken: a frame {} has another checksum than it says",
                to_string(kind));
  return payload;
}

std::string_view to_string(FrameKind kind) noexcept {
  switch (kind) {
    case FrameKind::kHello:
      return "hello";
    case FrameKind::kPages:
      return "pages";
    case FrameKind::kSync:
      return "sync";
    case FrameKind::kDevice:
      return "device";
    case FrameKind::kEnd:
      return "end";
    case FrameKind::kReleased:
      return "released";
    case FrameKind::kGo:
      return "go";
    case FrameKind::kFail:
      return "fail";
    case FrameKind::kWelcome:
      return "welcome";
    case FrameKind::kRefused:
      return "refused";
    case FrameKind::kReady:
      return "ready";
    case FrameKind::kAck:
      return "ack";
  }
  return "?";
}

}  // namespace rhea::migration
