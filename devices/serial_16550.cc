#include "devices/serial_16550.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "util/log.h"

namespace rhea::devices {
namespace {

// [PC16550D 8.7]
constexpr uint8_t kIerReceived = 0x01;
constexpr uint8_t kIerTransmitterEmpty = 0x02;
constexpr uint8_t kIerLineStatus = 0x04;
constexpr uint8_t kIerModemStatus = 0x08;
constexpr uint8_t kIerBits = 0x0f;

// Interrupt identification, highest priority first. [PC16550D 8.6, interrupt control functions]
constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirLineStatus = 0x06;
constexpr uint8_t kIirReceived = 0x04;
constexpr uint8_t kIirTimeout = 0x0c;
constexpr uint8_t kIirTransmitterEmpty = 0x02;
constexpr uint8_t kIirModemStatus = 0x00;
constexpr uint8_t kIirFifosEnabled = 0xc0;

// [PC16550D 8.5]
constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kFcrClearReceiver = 0x02;
constexpr uint8_t kFcrClearTransmitter = 0x04;
constexpr uint8_t kFcrTriggerBits = 0xc0;
constexpr std::array<size_t, 4> kTriggerLevels{1, 4, 8, 14};

// [PC16550D 8.1]
constexpr uint8_t kLcrWordBits = 0x03;
constexpr uint8_t kLcrTwoStopBits = 0x04;
constexpr uint8_t kLcrParity = 0x08;
constexpr uint8_t kLcrDivisorLatch = 0x80;

// [PC16550D 8.8]
constexpr uint8_t kMcrDtr = 0x01;
constexpr uint8_t kMcrRts = 0x02;
constexpr uint8_t kMcrOut1 = 0x04;
constexpr uint8_t kMcrOut2 = 0x08;
constexpr uint8_t kMcrLoopback = 0x10;
constexpr uint8_t kMcrBits = 0x1f;

// [PC16550D 8.4]
constexpr uint8_t kLsrDataReady = 0x01;
constexpr uint8_t kLsrOverrun = 0x02;
constexpr uint8_t kLsrFraming = 0x08;
constexpr uint8_t kLsrBreak = 0x10;
constexpr uint8_t kLsrHoldingEmpty = 0x20;
constexpr uint8_t kLsrTransmitterEmpty = 0x40;
constexpr uint8_t kLsrErrorInFifo = 0x80;

// The four inputs; each one's delta sits four bits lower. [PC16550D 8.9]
constexpr uint8_t kMsrCts = 0x10;
constexpr uint8_t kMsrDsr = 0x20;
constexpr uint8_t kMsrRing = 0x40;
constexpr uint8_t kMsrDcd = 0x80;
constexpr uint8_t kMsrInputs = 0xf0;
constexpr uint8_t kMsrRingEnded = 0x04;  // TERI: set by the falling edge only

constexpr uint64_t kClockHz = 1'843'200;
constexpr uint16_t kDivisorAtPowerOn = 12;  // 9600 baud; the chip itself promises nothing

}  // namespace

Serial16550::Serial16550(std::string id, IrqLine irq, TimerList& timers)
    : SavedDevice(std::move(id)),
      irq_(irq),
      io_(this->id(), kIoSize, *this, kAccess),
      divisor_(kDivisorAtPowerOn),
      clock_(timers.clock()),
      timeout_(timers, [this] {
        bql.assert_held();
        timeout_expired();
      }) {}

Result<void> Serial16550::do_realize() {
  own(io_);
  if (backend_ != nullptr) backend_->attach(this);
  return ok();
}

void Serial16550::do_unrealize() {
  if (backend_ != nullptr) std::exchange(backend_, nullptr)->attach(nullptr);
  timeout_.release();
  std::exchange(irq_, IrqLine()).lower();
}

// Master reset leaves the divisor and the scratch register alone. [PC16550D 8.0, reset
// configuration]
void Serial16550::reset() {
  interrupt_enable_ = 0;
  fifo_control_ = 0;
  line_control_ = 0;
  modem_control_ = 0;
  modem_status_ = kMsrCts | kMsrDsr | kMsrDcd;
  line_errors_ = 0;
  clear_receiver();
  clear_transmitter();
  thr_interrupt_ = false;
  update_irq();
  invite_input();
}

const Serial16550::Register& Serial16550::register_at(uint64_t offset, bool divisor_latch) {
  using S = Serial16550;
  static constexpr std::array<Register, kIoSize> kRegisters{{
      {&S::read_data, &S::write_data},
      {&S::read_interrupt_enable, &S::write_interrupt_enable},
      {&S::read_interrupt_id, &S::write_fifo_control},
      {&S::read_line_control, &S::write_line_control},
      {&S::read_modem_control, &S::write_modem_control},
      {&S::read_line_status, &S::write_read_only},
      {&S::read_modem_status, &S::write_read_only},
      {&S::read_scratch, &S::write_scratch},
  }};
  static constexpr std::array<Register, 2> kDivisorRegisters{{
      {&S::read_divisor_low, &S::write_divisor_low},
      {&S::read_divisor_high, &S::write_divisor_high},
  }};
  offset %= kIoSize;
  if (divisor_latch && offset < kDivisorRegisters.size()) return kDivisorRegisters[offset];
  return kRegisters[offset];
}

uint64_t Serial16550::io_read(uint64_t offset, unsigned /*size*/) {
  bql.assert_held();
  const uint8_t value =
      (this->*register_at(offset, (line_control_ & kLcrDivisorLatch) != 0).read)();
  RHEA_TRACE(kDevices, "serial_read id={} reg={} value={:#04x}", id(), offset, value);
  return value;
}

void Serial16550::io_write(uint64_t offset, uint64_t value, unsigned /*size*/) {
  bql.assert_held();
  RHEA_TRACE(kDevices, "serial_write id={} reg={} value={:#04x}", id(), offset, value);
  (this->*register_at(offset, (line_control_ & kLcrDivisorLatch) != 0).write)(
      static_cast<uint8_t>(value));
}

bool Serial16550::fifo_enabled() const { return (fifo_control_ & kFcrEnable) != 0; }
bool Serial16550::loopback() const { return (modem_control_ & kMcrLoopback) != 0; }

size_t Serial16550::receive_threshold() const {
  return fifo_enabled() ? kTriggerLevels[fifo_control_ >> 6] : 1;
}

uint8_t Serial16550::word_mask() const {
  return static_cast<uint8_t>(0xff >> (3 - (line_control_ & kLcrWordBits)));
}

Nanoseconds Serial16550::character_time() const {
  const uint64_t data_bits = 5U + (line_control_ & kLcrWordBits);
  const uint64_t bits = 1 + data_bits + ((line_control_ & kLcrParity) != 0 ? 1U : 0U) +
                        ((line_control_ & kLcrTwoStopBits) != 0 ? 2U : 1U);
  // A divisor of 0 stops the chip's baud generator. Ours counts it as 1: a time-out that never
  // comes would strand the last characters in the FIFO.
  const uint64_t divisor = std::max<uint64_t>(divisor_, 1);
  return Nanoseconds(static_cast<int64_t>(bits * divisor * 16 * 1'000'000'000 / kClockHz));
}

// --- Receiver ---------------------------------------------------------------------------------

size_t Serial16550::can_receive() {
  bql.assert_held();
  // In loopback the receiver hears the transmitter only: outside bytes wait in the backend.
  const size_t room =
      loopback() || received_.size() >= fifo_depth() ? 0 : fifo_depth() - received_.size();
  if (room == 0) input_held_ = true;
  return room;
}

void Serial16550::receive(std::span<const std::byte> data) {
  bql.assert_held();
  for (const std::byte byte : data) {
    take_character({.data = static_cast<uint8_t>(std::to_integer<uint8_t>(byte) & word_mask())});
  }
  update_irq();
}

void Serial16550::event(CharEvent event) {
  bql.assert_held();
  if (event != CharEvent::kBreak || loopback()) return;
  // A break enters as one zero character that has no stop bit. [PC16550D 8.4]
  take_character({.data = 0, .errors = kLsrBreak | kLsrFraming});
  update_irq();
}

void Serial16550::take_character(Received character) {
  if (received_.size() >= fifo_depth()) {
    line_errors_ |= kLsrOverrun;
    if (fifo_enabled()) return;  // the FIFO keeps what it has, the newest is lost
    received_.clear();           // without it the newest overwrites RBR
  }
  received_.push(character);
  if (received_.size() == 1) character_at_front();
  restart_timeout();
}

void Serial16550::character_at_front() {
  if (!received_.empty()) line_errors_ |= received_.front().errors;
}

void Serial16550::restart_timeout() {
  if (fifo_enabled() && !received_.empty()) {
    timeout_.arm_after(4 * character_time());  // [PC16550D 8.11]
  } else {
    timeout_.cancel();
  }
}

void Serial16550::timeout_expired() {
  timeout_interrupt_ = true;
  update_irq();
}

void Serial16550::clear_receiver() {
  received_.clear();
  timeout_interrupt_ = false;
  timeout_.cancel();
}

uint8_t Serial16550::read_data() {
  if (received_.empty()) return 0;
  const uint8_t value = received_.pop().data;
  character_at_front();
  timeout_interrupt_ = false;
  restart_timeout();
  update_irq();
  invite_input();
  return value;
}

// Waits until the FIFO is below its trigger level, so that input comes in bursts of a few
// characters and not one by one.
void Serial16550::invite_input() {
  if (!input_held_ || backend_ == nullptr || loopback()) return;
  if (received_.size() >= receive_threshold()) return;
  input_held_ = false;
  backend_->accept_input();
}

// --- Transmitter ------------------------------------------------------------------------------

void Serial16550::write_data(uint8_t value) {
  value &= word_mask();
  thr_interrupt_ = false;
  if (loopback()) {
    take_character({.data = value});
  } else if (to_send_.size() < fifo_depth()) {
    to_send_.push(value);
    pump();
  } else {
    errors().report(GuestError::kOverrun, std::to_underlying(UartReg::kData), value);
  }
  thr_interrupt_ = to_send_.empty();
  update_irq();
}

/// Moves bytes towards the backend until it takes no more.
void Serial16550::pump() {
  while (!shifting_.empty() || !to_send_.empty()) {
    if (shifting_.empty()) shifting_.push(to_send_.pop());
    const std::byte byte{shifting_.front()};
    if (backend_ != nullptr && backend_->write({&byte, 1}) == 0) return;
    shifting_.pop();
  }
}

void Serial16550::can_write() {
  bql.assert_held();
  const bool was_empty = to_send_.empty();
  pump();
  if (!was_empty && to_send_.empty()) thr_interrupt_ = true;
  update_irq();
}

// The guest sees its FIFO empty, as it asked. What was in it had been sent as far as the guest
// could know (the line takes no time), so it stays on its way: a driver that takes over from an
// early console clears the FIFOs and must not cut that console's last words.
void Serial16550::clear_transmitter() {
  while (!to_send_.empty() && !shifting_.full()) shifting_.push(to_send_.pop());
  if (!to_send_.empty()) {
    errors().report(GuestError::kOverrun, std::to_underlying(UartReg::kInterruptId),
                    to_send_.size());
  }
  to_send_.clear();
  pump();
}

// --- Control ----------------------------------------------------------------------------------

uint8_t Serial16550::read_divisor_low() { return static_cast<uint8_t>(divisor_); }
uint8_t Serial16550::read_divisor_high() { return static_cast<uint8_t>(divisor_ >> 8); }
void Serial16550::write_divisor_low(uint8_t value) {
  divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
}
void Serial16550::write_divisor_high(uint8_t value) {
  divisor_ = static_cast<uint16_t>((divisor_ & 0x00ff) | value << 8);
}

uint8_t Serial16550::read_interrupt_enable() { return interrupt_enable_; }

void Serial16550::write_interrupt_enable(uint8_t value) {
  const uint8_t turned_on = static_cast<uint8_t>(value & ~interrupt_enable_ & kIerBits);
  interrupt_enable_ = value & kIerBits;
  // Chips raise the interrupt when it is enabled with THR empty, even if it had been acknowledged
  // before; drivers start transmission by it, and Linux marks a chip that does not as broken.
  if ((turned_on & kIerTransmitterEmpty) != 0 && to_send_.empty()) thr_interrupt_ = true;
  update_irq();
}

uint8_t Serial16550::read_interrupt_id() {
  const uint8_t pending = pending_interrupt();
  if (pending == kIirTransmitterEmpty) {
    thr_interrupt_ =
        false;  // reading it is the acknowledgement [PC16550D 8.6, interrupt control functions]
    update_irq();
  }
  return static_cast<uint8_t>(pending | (fifo_enabled() ? kIirFifosEnabled : 0));
}

void Serial16550::write_fifo_control(uint8_t value) {
  const bool enable_changes = ((value ^ fifo_control_) & kFcrEnable) != 0;
  // Without the enable bit in the same store no other bit is programmed. [PC16550D 8.5]
  fifo_control_ = (value & kFcrEnable) != 0 ? value & (kFcrEnable | kFcrTriggerBits) : 0;
  if (enable_changes ||
      (value & (kFcrEnable | kFcrClearReceiver)) == (kFcrEnable | kFcrClearReceiver)) {
    clear_receiver();
  }
  if (enable_changes ||
      (value & (kFcrEnable | kFcrClearTransmitter)) == (kFcrEnable | kFcrClearTransmitter)) {
    const bool was_empty = to_send_.empty();
    clear_transmitter();
    if (!was_empty) thr_interrupt_ = true;
  }
  update_irq();
  invite_input();
}

uint8_t Serial16550::read_line_control() { return line_control_; }
void Serial16550::write_line_control(uint8_t value) { line_control_ = value; }

uint8_t Serial16550::read_modem_control() { return modem_control_; }

void Serial16550::write_modem_control(uint8_t value) {
  modem_control_ = value & kMcrBits;
  update_modem_lines();
  update_irq();
  invite_input();
}

// In loopback the four outputs feed the four inputs. [PC16550D 8.8]
void Serial16550::update_modem_lines() {
  uint8_t inputs = kMsrCts | kMsrDsr | kMsrDcd;
  if (loopback()) {
    inputs = static_cast<uint8_t>(((modem_control_ & kMcrRts) != 0 ? kMsrCts : 0) |
                                  ((modem_control_ & kMcrDtr) != 0 ? kMsrDsr : 0) |
                                  ((modem_control_ & kMcrOut1) != 0 ? kMsrRing : 0) |
                                  ((modem_control_ & kMcrOut2) != 0 ? kMsrDcd : 0));
  }
  const uint8_t changed = static_cast<uint8_t>((modem_status_ ^ inputs) & kMsrInputs);
  auto deltas = static_cast<uint8_t>(changed >> 4);
  if ((inputs & kMsrRing) != 0) deltas = static_cast<uint8_t>(deltas & ~kMsrRingEnded);
  modem_status_ = static_cast<uint8_t>(inputs | (modem_status_ & ~kMsrInputs) | deltas);
}

uint8_t Serial16550::line_status() const {
  auto status = line_errors_;
  if (!received_.empty()) status |= kLsrDataReady;
  if (to_send_.empty()) status |= kLsrHoldingEmpty;
  if (to_send_.empty() && shifting_.empty()) status |= kLsrTransmitterEmpty;
  for (size_t i = 0; fifo_enabled() && i < received_.size(); ++i) {
    if (received_[i].errors != 0) status |= kLsrErrorInFifo;
  }
  return status;
}

uint8_t Serial16550::read_line_status() {
  const uint8_t status = line_status();
  if (line_errors_ != 0) {
    line_errors_ = 0;
    if (!received_.empty()) received_.front().errors = 0;
    update_irq();
  }
  return status;
}

uint8_t Serial16550::read_modem_status() {
  const uint8_t status = modem_status_;
  modem_status_ &= kMsrInputs;
  update_irq();
  return status;
}

void Serial16550::write_read_only(uint8_t) {}  // "factory testing": the chip ignores it

uint8_t Serial16550::read_scratch() { return scratch_; }
void Serial16550::write_scratch(uint8_t value) { scratch_ = value; }

// [PC16550D 8.6, interrupt control functions]
uint8_t Serial16550::pending_interrupt() const {
  if ((interrupt_enable_ & kIerLineStatus) != 0 && line_errors_ != 0) return kIirLineStatus;
  if ((interrupt_enable_ & kIerReceived) != 0) {
    if (received_.size() >= receive_threshold()) return kIirReceived;
    if (timeout_interrupt_) return kIirTimeout;
  }
  if ((interrupt_enable_ & kIerTransmitterEmpty) != 0 && thr_interrupt_) {
    return kIirTransmitterEmpty;
  }
  const bool modem_changed = (modem_status_ & ~kMsrInputs) != 0;
  if ((interrupt_enable_ & kIerModemStatus) != 0 && modem_changed) return kIirModemStatus;
  return kIirNone;
}

void Serial16550::update_irq() {
  // Loopback forces the OUT2 pin inactive, and with it the gate. [PC16550D 8.8]
  const bool gate = (modem_control_ & kMcrOut2) != 0 && !loopback();
  irq_.set(gate && pending_interrupt() != kIirNone);
}

}  // namespace rhea::devices
