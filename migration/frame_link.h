// FrameLink: frames on a channel.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "migration/channel.h"
#include "migration/frame.h"
#include "util/error.h"
#include "util/saved_state.h"

namespace rhea::migration {

struct Frame {
  FrameKind kind{};
  std::vector<uint8_t> payload;
  /// The payload of a frame that holds text, for a message.
  std::string text() const { return {payload.begin(), payload.end()}; }
};

/// Thread: as Channel. Owns: nothing; the channel outlives it.
class FrameLink {
 public:
  explicit FrameLink(Channel& channel) : channel_(channel) {}

  Result<void> send(FrameKind kind, std::span<const uint8_t> payload = {});
  /// A longer text is cut.
  Result<void> send_text(FrameKind kind, std::string_view text);
  template <class State>
  Result<void> send_state(FrameKind kind, const State& state) {
    return send(kind, encode_state(state));
  }
  /// The next frame, whole and checked. Errors: the channel's; kCorrupt.
  Result<Frame> receive();

  Channel& channel() noexcept { return channel_; }

 private:
  Channel& channel_;
};

}  // namespace rhea::migration
