#include "devices/ps2_keyboard.h"

#include <utility>

#include "devices/saved_device.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kAcknowledge = 0xfa;
constexpr uint8_t kResend = 0xfe;
constexpr uint8_t kSelfTestPassed = 0xaa;
constexpr uint8_t kEcho = 0xee;
constexpr uint8_t kScancodeSets = 3;

}  // namespace

// [PS2-KBD, Commands from the system]
enum class Ps2Keyboard::Command : uint8_t {
  kSetLeds = 0xed,
  kEcho = 0xee,
  kScancodeSet = 0xf0,
  kIdentify = 0xf2,
  kSetTypematic = 0xf3,
  kEnable = 0xf4,
  kDisable = 0xf5,
  kSetDefault = 0xf6,
  kAllTypematic = 0xf7,
  kAllMakeBreak = 0xf8,
  kAllMake = 0xf9,
  kAllTypematicMakeBreak = 0xfa,
  kResendLast = 0xfe,
  kReset = 0xff,
};

void Ps2Keyboard::reset() {
  output_.clear();
  waiting_.reset();
  scancode_set_ = 2;
}

void Ps2Keyboard::write(uint8_t byte) {
  // No argument is above 0xdf, so such a byte is a new command, whatever came before.
  const auto waiting = std::exchange(waiting_, std::nullopt);
  if (waiting && byte < std::to_underlying(Command::kSetLeds)) return argument(*waiting, byte);
  command(Command{byte});
}

void Ps2Keyboard::command(Command command) {
  switch (command) {
    case Command::kEcho:
      return answer(kEcho);
    case Command::kSetLeds:
    case Command::kScancodeSet:
    case Command::kSetTypematic:
      waiting_ = command;
      return answer(kAcknowledge);
    case Command::kIdentify:
      answer(kAcknowledge);
      answer(0xab);
      return answer(0x83);
    case Command::kResendLast:
      return answer(last_sent_);
    case Command::kReset:
      reset();
      answer(kAcknowledge);
      return answer(kSelfTestPassed);
    case Command::kSetDefault:
    case Command::kDisable:
      scancode_set_ = 2;
      return answer(kAcknowledge);
    case Command::kEnable:
    case Command::kAllTypematic:
    case Command::kAllMakeBreak:
    case Command::kAllMake:
    case Command::kAllTypematicMakeBreak:
      return answer(kAcknowledge);
  }
  answer(kResend);  // the argument of a command that was cut short, or no command at all
}

void Ps2Keyboard::argument(Command command, uint8_t byte) {
  if (command != Command::kScancodeSet) return answer(kAcknowledge);
  if (byte > kScancodeSets) return answer(kResend);
  answer(kAcknowledge);
  if (byte == 0) return answer(scancode_set_);
  scancode_set_ = byte;
}

void Ps2Keyboard::answer(uint8_t byte) {
  if (!output_.full()) output_.push(byte);  // a host that never reads gets no more answers
}

std::optional<uint8_t> Ps2Keyboard::read() {
  if (output_.empty()) return std::nullopt;
  last_sent_ = output_.pop();
  return last_sent_;
}

bool Ps2Keyboard::takes_argument(Command command) {
  return command == Command::kSetLeds || command == Command::kScancodeSet ||
         command == Command::kSetTypematic;
}

Ps2KeyboardState Ps2Keyboard::state() const {
  return {.output = output_.contents(),
          .waiting = waiting_ ? std::to_underlying(*waiting_) : uint8_t{0},
          .last_sent = last_sent_,
          .scancode_set = scancode_set_};
}

Result<void> Ps2Keyboard::check_state(const Ps2KeyboardState& state) {
  if (state.waiting != 0 && !takes_argument(Command{state.waiting})) {
    return bad_state("keyboard.waiting", "{:#x} takes no argument", state.waiting);
  }
  if (state.scancode_set < 1 || state.scancode_set > kScancodeSets) {
    return bad_state("keyboard.scancode_set", "{}, expected 1 to {}", state.scancode_set,
                     kScancodeSets);
  }
  return ok();
}

void Ps2Keyboard::set_state(const Ps2KeyboardState& state) {
  output_.assign(state.output);
  waiting_.reset();
  if (state.waiting != 0) waiting_ = Command{state.waiting};
  last_sent_ = state.last_sent;
  scancode_set_ = state.scancode_set;
}

}  // namespace rhea::devices
