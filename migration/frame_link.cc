#include "migration/frame_link.h"

#include <algorithm>
#include <array>

#include "migration/internal/buffer.h"

namespace rhea::migration {
namespace {

constexpr size_t kMaxText = 4096;

}  // namespace

Result<void> FrameLink::send(FrameKind kind, std::span<const uint8_t> payload) {
  const std::vector<uint8_t> frame = encode_frame(kind, payload);
  return channel_.write(std::as_bytes(std::span(frame)));
}

Result<void> FrameLink::send_text(FrameKind kind, std::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  return send(kind, std::span(bytes, std::min(text.size(), kMaxText)));
}

Result<Frame> FrameLink::receive() {
  std::array<uint8_t, kFrameHeaderBytes> head;
  TRY(channel_.read(std::as_writable_bytes(std::span(head))));
  const FrameHeader header = TRY(decode_frame_header(head));
  auto rest = TRY(internal::make_buffer<uint8_t>(header.length + kFrameTrailerBytes));
  TRY(channel_.read(std::as_writable_bytes(std::span(rest))));
  TRY(check_frame_payload(header.kind, rest));
  rest.resize(header.length);
  return Frame{header.kind, std::move(rest)};
}

}  // namespace rhea::migration
