#include "devices/i8042.h"

#include <array>
#include <utility>

#include "util/log.h"

namespace rhea::devices {
namespace {

// Status port. [PS2-KBC, Status register]
constexpr uint8_t kStatusOutputFull = 0x01;
constexpr uint8_t kStatusSystem = 0x04;
constexpr uint8_t kStatusCommand = 0x08;
constexpr uint8_t kStatusUnlocked = 0x10;
constexpr uint8_t kStatusAuxData = 0x20;
constexpr uint8_t kStatusTimeout = 0x40;

// Command byte. [PS2-KBC, Controller command byte]
constexpr uint8_t kByteKeyboardIrq = 0x01;
constexpr uint8_t kByteAuxIrq = 0x02;
constexpr uint8_t kByteSystem = 0x04;
constexpr uint8_t kByteKeyboardOff = 0x10;
constexpr uint8_t kByteAuxOff = 0x20;
constexpr uint8_t kByteTranslate = 0x40;

// Output port. [PS2-KBC, Output port]
constexpr uint8_t kOutNotReset = 0x01;
constexpr uint8_t kOutA20 = 0x02;
constexpr uint8_t kOutIrq1 = 0x10;
constexpr uint8_t kOutIrq12 = 0x20;

constexpr uint8_t kSelfTestPassed = 0x55;
constexpr uint8_t kInterfaceTestPassed = 0x00;
constexpr uint8_t kNoPassword = 0xf1;
constexpr uint8_t kResend = 0xfe;
constexpr uint8_t kInputPortUnlocked = 0x80;

/// What translation to scan code set 1 makes of the bytes that our keyboard sends.
uint8_t translate(uint8_t byte) {
  switch (byte) {
    case 0x01:
      return 0x43;
    case 0x02:
      return 0x41;
    case 0x03:
      return 0x3f;
    case 0x83:
      return 0x41;
    default:
      return byte;  // 0xaa, 0xab, 0xee, 0xfa and 0xfe are their own translations
  }
}

}  // namespace

// [PS2-KBC, Controller commands]
enum class I8042::Command : uint8_t {
  kReadRam = 0x20,   ///< to 0x3f; location 0 is the command byte
  kWriteRam = 0x60,  ///< to 0x7f
  kTestPassword = 0xa4,
  kDisableAux = 0xa7,
  kEnableAux = 0xa8,
  kTestAux = 0xa9,
  kSelfTest = 0xaa,
  kTestKeyboard = 0xab,
  kDisableKeyboard = 0xad,
  kEnableKeyboard = 0xae,
  kReadInputPort = 0xc0,
  kReadOutputPort = 0xd0,
  kWriteOutputPort = 0xd1,
  kWriteKeyboardBuffer = 0xd2,
  kWriteAuxBuffer = 0xd3,
  kWriteAux = 0xd4,
  kReadTestInputs = 0xe0,
  kPulseOutput = 0xf0,  ///< to 0xff; the bits that are 0 are pulsed
};

I8042::I8042(std::string id, IrqLine keyboard_irq, IrqLine aux_irq,
             std::move_only_function<void()> request_reset)
    : SavedDevice(std::move(id)),
      keyboard_irq_(keyboard_irq),
      aux_irq_(aux_irq),
      request_reset_(std::move(request_reset)),
      data_region_(this->id() + "-data", 1, data_handler_, kAccess),
      command_region_(this->id() + "-cmd", 1, command_handler_, kAccess) {}

Result<void> I8042::do_realize() {
  own(data_region_);
  own(command_region_);
  return ok();
}

void I8042::do_unrealize() {
  request_reset_ = nullptr;
  std::exchange(keyboard_irq_, IrqLine()).lower();
  std::exchange(aux_irq_, IrqLine()).lower();
}

void I8042::reset() {
  keyboard_.reset();
  command_byte_ = kByteKeyboardIrq | kByteSystem | kByteAuxOff | kByteTranslate;
  output_latch_ = kOutNotReset | kOutA20;
  last_was_command_ = false;
  self_tested_ = true;
  waiting_.reset();
  buffer_.reset();
  replies_.clear();
  update_irq();
}

uint64_t I8042::DataPort::io_read(uint64_t, unsigned) {
  bql.assert_held();
  return owner.read_data();
}
void I8042::DataPort::io_write(uint64_t, uint64_t value, unsigned) {
  bql.assert_held();
  owner.write_data(static_cast<uint8_t>(value));
}
uint64_t I8042::CommandPort::io_read(uint64_t, unsigned) {
  bql.assert_held();
  return owner.status();
}
void I8042::CommandPort::io_write(uint64_t, uint64_t value, unsigned) {
  bql.assert_held();
  owner.command(static_cast<uint8_t>(value));
}

uint8_t I8042::status() const {
  uint8_t status = kStatusUnlocked;
  if (self_tested_ || (command_byte_ & kByteSystem) != 0) status |= kStatusSystem;
  if (last_was_command_) status |= kStatusCommand;
  if (buffer_) {
    status = static_cast<uint8_t>(status | kStatusOutputFull | buffer_->status);
    if (buffer_->source == Source::kAux) status |= kStatusAuxData;
  }
  return status;
}

uint8_t I8042::read_data() {
  if (!buffer_) return 0;
  const uint8_t byte = buffer_->byte;
  RHEA_TRACE(kDevices, "i8042_read data={:#04x}", byte);
  buffer_.reset();
  update_irq();  // down first, so that the next byte makes a new edge
  fill_output_buffer();
  return byte;
}

void I8042::write_data(uint8_t byte) {
  RHEA_TRACE(kDevices, "i8042_write data={:#04x}", byte);
  last_was_command_ = false;
  const auto waiting = std::exchange(waiting_, std::nullopt);
  if (waiting) {
    command_with_argument(*waiting, byte);
  } else {
    to_keyboard(byte);
  }
  fill_output_buffer();
}

void I8042::to_keyboard(uint8_t byte) {
  command_byte_ &= static_cast<uint8_t>(~kByteKeyboardOff);  // sending turns its clock on
  keyboard_.write(byte);
}

void I8042::command(uint8_t byte) {
  RHEA_TRACE(kDevices, "i8042_write command={:#04x}", byte);
  last_was_command_ = true;
  waiting_.reset();
  if (byte >= std::to_underlying(Command::kPulseOutput)) return pulse_output(byte);
  switch (Command{byte}) {
    case Command::kReadRam:
      reply(command_byte_);
      break;
    case Command::kWriteRam:
    case Command::kWriteOutputPort:
    case Command::kWriteKeyboardBuffer:
    case Command::kWriteAuxBuffer:
    case Command::kWriteAux:
      waiting_ = Command{byte};
      break;
    case Command::kTestPassword:
      reply(kNoPassword);
      break;
    case Command::kDisableAux:
      command_byte_ |= kByteAuxOff;
      break;
    case Command::kEnableAux:
      command_byte_ &= static_cast<uint8_t>(~kByteAuxOff);
      break;
    case Command::kTestAux:
    case Command::kTestKeyboard:
      reply(kInterfaceTestPassed);
      break;
    case Command::kSelfTest:
      self_tested_ = true;
      reply(kSelfTestPassed);
      break;
    case Command::kDisableKeyboard:
      command_byte_ |= kByteKeyboardOff;
      break;
    case Command::kEnableKeyboard:
      command_byte_ &= static_cast<uint8_t>(~kByteKeyboardOff);
      break;
    case Command::kReadInputPort:
      reply(kInputPortUnlocked);
      break;
    case Command::kReadOutputPort:
      reply(output_port());
      break;
    case Command::kReadTestInputs:
      reply(0);
      break;
    default:
      errors().report(GuestError::kBadCommand, 0x64, byte);
  }
  fill_output_buffer();
}

bool I8042::takes_argument(Command command) {
  switch (command) {
    case Command::kWriteRam:
    case Command::kWriteOutputPort:
    case Command::kWriteKeyboardBuffer:
    case Command::kWriteAuxBuffer:
    case Command::kWriteAux:
      return true;
    default:
      return false;
  }
}

void I8042::command_with_argument(Command command, uint8_t byte) {
  switch (command) {
    case Command::kWriteRam:
      command_byte_ = byte;
      self_tested_ = (byte & kByteSystem) != 0;  // the status bit follows the command byte's
      return update_irq();
    case Command::kWriteOutputPort:
      return write_output_port(byte);
    case Command::kWriteKeyboardBuffer:
      return reply(byte, Source::kKeyboard);
    case Command::kWriteAuxBuffer:
      return reply(byte, Source::kAux);
    case Command::kWriteAux:
      return reply(kResend, Source::kAux, kStatusTimeout);
    default:
      RHEA_UNREACHABLE();
  }
}

void I8042::pulse_output(uint8_t bits) {
  if ((bits & kOutNotReset) == 0 && request_reset_) request_reset_();
}

void I8042::write_output_port(uint8_t value) {
  output_latch_ = value & (kOutNotReset | kOutA20);
  if ((value & kOutNotReset) == 0 && request_reset_) request_reset_();
}

uint8_t I8042::output_port() const {
  uint8_t value = output_latch_;
  if (buffer_) value |= buffer_->source == Source::kAux ? kOutIrq12 : kOutIrq1;
  return value;
}

void I8042::reply(uint8_t byte, Source source, uint8_t status) {
  if (replies_.full()) return errors().report(GuestError::kOverrun, 0x60, byte);
  replies_.push({.byte = byte, .source = source, .status = status});
}

/// Moves the next byte into the empty output buffer: the controller's own before the keyboard's.
void I8042::fill_output_buffer() {
  if (buffer_) return;
  if (!replies_.empty()) {
    buffer_ = replies_.pop();
  } else if ((command_byte_ & kByteKeyboardOff) == 0) {
    if (const auto byte = keyboard_.read()) {
      const bool translated = (command_byte_ & kByteTranslate) != 0;
      buffer_ = Output{.byte = translated ? translate(*byte) : *byte, .source = Source::kKeyboard};
    }
  }
  update_irq();
}

// The controller's own answers raise nothing: who gave the command waits for them.
void I8042::update_irq() {
  const bool keyboard = buffer_ && buffer_->source == Source::kKeyboard;
  const bool aux = buffer_ && buffer_->source == Source::kAux;
  keyboard_irq_.set(keyboard && (command_byte_ & kByteKeyboardIrq) != 0);
  aux_irq_.set(aux && (command_byte_ & kByteAuxIrq) != 0);
}

I8042State I8042::state() {
  I8042State state{.command_byte = command_byte_,
                   .output_latch = output_latch_,
                   .last_was_command = last_was_command_,
                   .self_tested = self_tested_,
                   .waiting = waiting_ ? std::to_underlying(*waiting_) : uint8_t{0},
                   .buffer = {},
                   .replies = {},
                   .keyboard = keyboard_.state()};
  if (buffer_) state.buffer.push_back(buffer_->saved());
  for (const Output& reply : replies_.contents()) state.replies.push_back(reply.saved());
  return state;
}

Result<void> I8042::check_state(const I8042State& state) const {
  TRY(check_bits("output_latch", state.output_latch, kOutNotReset | kOutA20));
  if (state.waiting != 0 && !takes_argument(Command{state.waiting})) {
    return bad_state("waiting", "{:#x} takes no argument", state.waiting);
  }
  const auto check = [](std::string_view field, const I8042State::Output& output) -> Result<void> {
    TRY(check_at_most(field, output.source, std::to_underlying(Source::kAux)));
    return check_bits(field, output.status, kStatusTimeout);
  };
  for (const auto& output : state.buffer) TRY(check("buffer", output));
  for (const auto& output : state.replies) TRY(check("replies", output));
  return Ps2Keyboard::check_state(state.keyboard);
}

void I8042::set_state(const I8042State& state) {
  command_byte_ = state.command_byte;
  output_latch_ = state.output_latch;
  last_was_command_ = state.last_was_command;
  self_tested_ = state.self_tested;
  waiting_.reset();
  if (state.waiting != 0) waiting_ = Command{state.waiting};
  keyboard_.set_state(state.keyboard);
  replies_.clear();
  for (const auto& reply : state.replies) replies_.push(Output::loaded(reply));
  buffer_.reset();
  if (!state.buffer.empty()) buffer_ = Output::loaded(state.buffer.front());
  update_irq();
}

}  // namespace rhea::devices
