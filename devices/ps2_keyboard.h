// Ps2Keyboard: the command side of a PS/2 keyboard. Nobody ever types on it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "devices/internal/fifo.h"
#include "util/error.h"

namespace rhea::devices {

struct Ps2KeyboardState {
  static constexpr size_t kMaxOutput = 16;
  std::vector<uint8_t> output;
  uint8_t waiting = 0;  // the command that wants its argument; 0: none
  uint8_t last_sent = 0;
  uint8_t scancode_set = 2;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("output", s.output, kMaxOutput);
    v.field("waiting", s.waiting);
    v.field("last_sent", s.last_sent);
    v.field("scancode_set", s.scancode_set);
  }
};

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
  Ps2KeyboardState state() const;
  static Result<void> check_state(const Ps2KeyboardState& state);
  void set_state(const Ps2KeyboardState& state);
  bool has_output() const noexcept { return !output_.empty(); }

 private:
  enum class Command : uint8_t;
  static bool takes_argument(Command command);
  void command(Command command);
  void argument(Command command, uint8_t byte);
  void answer(uint8_t byte);

  internal::Fifo<uint8_t, Ps2KeyboardState::kMaxOutput> output_;
  std::optional<Command> waiting_;  // has taken a command, wants its argument
  uint8_t last_sent_ = 0;
  uint8_t scancode_set_ = 2;
};

}  // namespace rhea::devices
