#include "migration/frame.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "util/crc32c.h"
#include "util/endian.h"

using namespace rhea;
using namespace rhea::migration;

namespace {

using Bytes = std::vector<uint8_t>;

Result<FrameHeader> header_of(const Bytes& frame) {
  return decode_frame_header(std::span(frame).first<kFrameHeaderBytes>());
}

Result<std::span<const uint8_t>> payload_of(const Bytes& frame, FrameKind kind) {
  return check_frame_payload(kind, std::span(frame).subspan(kFrameHeaderBytes));
}

constexpr FrameKind kAll[] = {FrameKind::kHello,   FrameKind::kPages, FrameKind::kSync,
                              FrameKind::kDevice,  FrameKind::kEnd,   FrameKind::kReleased,
                              FrameKind::kGo,      FrameKind::kFail,  FrameKind::kWelcome,
                              FrameKind::kRefused, FrameKind::kReady, FrameKind::kAck};

}  // namespace

TEST_CASE("Frame: what was put in comes out", "[migration]") {
  for (const FrameKind kind : kAll) {
    const bool bare = kind == FrameKind::kGo || kind == FrameKind::kReleased ||
                      kind == FrameKind::kReady || kind == FrameKind::kAck;
    const Bytes payload = bare ? Bytes{} : Bytes{1, 2, 3, 255};
    const Bytes frame = encode_frame(kind, payload);
    CHECK(frame.size() == kFrameHeaderBytes + payload.size() + kFrameTrailerBytes);
    const FrameHeader header = MUST(header_of(frame));
    CHECK(header.kind == kind);
    CHECK(header.length == payload.size());
    CHECK(std::ranges::equal(MUST(payload_of(frame, kind)), payload));
    CHECK(to_string(kind) != "?");
  }
}

TEST_CASE("Frame: any bit that flips is noticed", "[migration]") {
  const Bytes good = encode_frame(FrameKind::kSync, Bytes{7, 0, 0, 0, 0, 0, 0, 0});
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    Bytes bad = good;
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1U << bit % 8);
    const auto header = header_of(bad);
    INFO("bit " << bit);
    CHECK((!header || !payload_of(bad, header->kind)));
  }
}

TEST_CASE("Frame: what is no frame is refused as such", "[migration]") {
  CHECK(header_of(Bytes(kFrameHeaderBytes, 0)).error().message() == "Not a migration stream");
  const std::string request = "GET / HTTP/1.1\r\n";
  CHECK(header_of(Bytes(request.begin(), request.end())).error().message() ==
        "Not a migration stream");
}

TEST_CASE("Frame: a peer that means it is refused by name, too", "[migration]") {
  // The checksum fits: nothing was damaged on the way.
  const auto header = [](uint16_t kind, uint16_t zero, uint32_t length) {
    struct {
      std::array<char, 4> magic{'R', 'H', 'E', 'A'};
      le16 kind, zero;
      le32 length, checksum;
    } wire;
    wire.kind = kind;
    wire.zero = zero;
    wire.length = length;
    const auto bytes = std::as_bytes(std::span(&wire, 1));
    wire.checksum = crc32c(bytes.first(12));
    const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
    return header_of(Bytes(first, first + bytes.size()));
  };
  const auto go = static_cast<uint16_t>(FrameKind::kGo);
  CHECK(header(go, 0, 0));
  CHECK(header(0, 0, 0).error().message() ==
        "The migration stream has a frame of unknown kind 0x0");
  CHECK(header(9, 0, 0).error().message() ==
        "The migration stream has a frame of unknown kind 0x9");
  CHECK(header(go, 1, 0).error().message() ==
        "The migration stream has a frame of unknown kind 0x10007");
  CHECK(header(go, 0, 1).error().message() ==
        "The migration stream has a frame go of 1 bytes, at most 0");
  const auto device = static_cast<uint16_t>(FrameKind::kDevice);
  CHECK(header(device, 0, 16U << 20));
  CHECK(header(device, 0, UINT32_MAX).error().message() ==
        "The migration stream has a frame device of 4294967295 bytes, at most 16777216");
}
