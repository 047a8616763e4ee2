// How a serial port is saved and loaded.
#include "devices/serial_16550_state.h"

#include <algorithm>

#include "devices/serial_16550.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kIerBits = 0x0f;
constexpr uint8_t kFcrBits = 0xc1;  // enable and trigger level; none without the enable
constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kMcrBits = 0x1f;
constexpr uint8_t kLsrErrors = 0x1e;  // OE PE FE BI
// Above four of the slowest characters: 12 bits, divisor 65535.
constexpr uint64_t kMaxTimeoutNs = 30'000'000'000;

}  // namespace

Serial16550State Serial16550::state() {
  Serial16550State state{.interrupt_enable = interrupt_enable_,
                         .fifo_control = fifo_control_,
                         .line_control = line_control_,
                         .modem_control = modem_control_,
                         .modem_status = modem_status_,
                         .scratch = scratch_,
                         .divisor = divisor_,
                         .line_errors = line_errors_,
                         .thr_interrupt = thr_interrupt_,
                         .timeout_interrupt = timeout_interrupt_,
                         .received = received_.contents(),
                         .to_send = to_send_.contents(),
                         .shifting = shifting_.contents()};
  if (const Nanoseconds deadline = timeout_.deadline(); deadline != Nanoseconds::max()) {
    state.timeout_armed = true;
    const Nanoseconds left = std::max(deadline - clock_.now(), Nanoseconds(0));
    state.timeout_left_ns = static_cast<uint64_t>(left.count());
  }
  return state;
}

Result<void> Serial16550::check_state(const Serial16550State& state) const {
  TRY(check_bits("interrupt_enable", state.interrupt_enable, kIerBits));
  const bool fifos = (state.fifo_control & kFcrEnable) != 0;
  TRY(check_bits("fifo_control", state.fifo_control, fifos ? kFcrBits : 0));
  TRY(check_bits("modem_control", state.modem_control, kMcrBits));
  TRY(check_bits("line_errors", state.line_errors, kLsrErrors));
  const size_t depth = fifos ? kFifoDepth : 1;
  if (state.received.size() > depth) {
    return bad_state("received", "{} characters, at most {}", state.received.size(), depth);
  }
  for (const Received& character : state.received) {
    TRY(check_bits("received.errors", character.errors, kLsrErrors));
  }
  if (state.to_send.size() > depth) {
    return bad_state("to_send", "{} bytes, at most {}", state.to_send.size(), depth);
  }
  return check_at_most("timeout_left_ns", state.timeout_left_ns,
                       state.timeout_armed ? kMaxTimeoutNs : 0);
}

void Serial16550::set_state(const Serial16550State& state) {
  interrupt_enable_ = state.interrupt_enable;
  fifo_control_ = state.fifo_control;
  line_control_ = state.line_control;
  modem_control_ = state.modem_control;
  modem_status_ = state.modem_status;
  scratch_ = state.scratch;
  divisor_ = state.divisor;
  line_errors_ = state.line_errors;
  thr_interrupt_ = state.thr_interrupt;
  timeout_interrupt_ = state.timeout_interrupt;
  received_.assign(state.received);
  to_send_.assign(state.to_send);
  shifting_.assign(state.shifting);
  timeout_.cancel();
  if (state.timeout_armed) {
    timeout_.arm_after(Nanoseconds(static_cast<int64_t>(state.timeout_left_ns)));
  }
  update_irq();
}

void Serial16550::resume_loaded() {
  can_write();
  input_held_ = true;  // the peer may have been told 0 before the state came
  invite_input();
}

}  // namespace rhea::devices
