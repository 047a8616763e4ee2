// Serial16550State: what of a serial port travels with its guest.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace rhea::devices {

struct Serial16550State {
  static constexpr std::string_view kKind = "serial-16550";
  static constexpr uint32_t kVersion = 1;
  static constexpr size_t kFifoDepth = 16;
  static constexpr size_t kShifting = 4 * kFifoDepth;

  struct Character {
    uint8_t data = 0;
    uint8_t errors = 0;  // LSR bits that belong to this character
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("data", s.data);
      v.field("errors", s.errors);
    }
  };

  uint8_t interrupt_enable = 0;
  uint8_t fifo_control = 0;
  uint8_t line_control = 0;
  uint8_t modem_control = 0;
  uint8_t modem_status = 0;
  uint8_t scratch = 0;
  uint16_t divisor = 0;
  uint8_t line_errors = 0;
  bool thr_interrupt = false;
  bool timeout_interrupt = false;
  std::vector<Character> received;
  std::vector<uint8_t> to_send;
  std::vector<uint8_t> shifting;
  bool timeout_armed = false;
  uint64_t timeout_left_ns = 0;

  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("interrupt_enable", s.interrupt_enable);
    v.field("fifo_control", s.fifo_control);
    v.field("line_control", s.line_control);
    v.field("modem_control", s.modem_control);
    v.field("modem_status", s.modem_status);
    v.field("scratch", s.scratch);
    v.field("divisor", s.divisor);
    v.field("line_errors", s.line_errors);
    v.field("thr_interrupt", s.thr_interrupt);
    v.field("timeout_interrupt", s.timeout_interrupt);
    v.field("received", s.received, kFifoDepth);
    v.field("to_send", s.to_send, kFifoDepth);
    v.field("shifting", s.shifting, kShifting);
    v.field("timeout_armed", s.timeout_armed);
    v.field("timeout_left_ns", s.timeout_left_ns);
  }
};

}  // namespace rhea::devices
