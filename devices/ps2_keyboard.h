// Ps2Keyboard: the command side of a PS/2 keyboard. Nobody ever types on it.
#pragma once

#include <cstdint>
#include <optional>

#include "devices/internal/fifo.h"

namespace rhea::devices {

/// Answers the host's commands, so that a driver finds a keyboard, sets it up and is content.
/// Thread: its controller's. Errors: an unknown command is answered with Resend, as keyboards do.
class Ps2Keyboard {
 public:
  /// Power-on state; a keyboard that was reset by command answers first.
  void reset();
  /// A byte from the host.
  void write(uint8_t byte);
  /// The next byte for the host, if there is one.
  std::optional<uint8_t> read();
  bool has_output() const noexcept { return !output_.empty(); }

 private:
  enum class Command : uint8_t;
  void command(Command command);
  void argument(Command command, uint8_t byte);
  void answer(uint8_t byte);

  internal::Fifo<uint8_t, 16> output_;
  std::optional<Command> waiting_;  // has taken a command, wants its argument
  uint8_t last_sent_ = 0;
  uint8_t scancode_set_ = 2;
};

}  // namespace rhea::devices
