// Serial16550: the NS16550A UART, as wired on a PC's COM ports.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "devices/chardev.h"
#include "devices/internal/device_timer.h"
#include "devices/internal/fifo.h"
#include "devices/irq.h"
#include "devices/saved_device.h"
#include "devices/serial_16550_state.h"
#include "memory/io_handler.h"
#include "util/timer.h"

namespace rhea::devices {

/// Offsets of the registers. Offsets 0 and 1 show the divisor while LCR.DLAB is set, and offset 2
/// is one register to read and another to write. [PC16550D 8.0]
enum class UartReg : uint8_t {
  kData = 0,             ///< RBR to read, THR to write, DLL with DLAB
  kInterruptEnable = 1,  ///< IER, DLM with DLAB
  kInterruptId = 2,      ///< IIR to read, FCR to write
  kLineControl = 3,
  kModemControl = 4,
  kLineStatus = 5,
  kModemStatus = 6,
  kScratch = 7,
};

/// A serial port with its two FIFOs.
///
/// Transmission takes no time: a byte goes to the backend in the store that brings it, and THRE
/// comes back at once. A byte that the backend does not take stays in the transmit path (shift
/// register, then FIFO), THRE drops when the FIFO fills, and a driver that respects THRE waits;
/// what the driver asked to send is not lost while there is a peer. Towards the guest, the backend
/// is told how much room the receive FIFO has, so the line never overruns; an overrun is possible
/// in loopback only.
///
/// The cable is always plugged in: CTS, DSR and DCD are asserted whether or not a peer is there,
/// because a console with hardware flow control would otherwise stall a guest that nobody watches.
/// MCR.OUT2 gates the interrupt line, for that is how a PC is wired; without it the probing of a
/// driver that plays with IER before it owns the interrupt would raise spurious ones.
///
/// Thread: BQL. Errors: bytes pushed into a full transmit FIFO are dropped and reported.
class Serial16550 final : public SavedDevice<Serial16550State>,
                          public memory::IoHandler,
                          private CharFrontend {
 public:
  static constexpr uint64_t kIoSize = 8;
  static constexpr size_t kFifoDepth = Serial16550State::kFifoDepth;
  /// The ISA bus cuts wider accesses into bytes.
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 1, .unaligned = true};

  Serial16550(std::string id, IrqLine irq, TimerList& timers);

  /// Attaches the outside end; null, the default, is a cable that ends nowhere. Before realize().
  void set_backend(CharBackend* backend) REQUIRES(bql) { backend_ = backend; }
  memory::MemoryRegion& io() noexcept { return io_; }

  void reset() override REQUIRES(bql);
  /// Offers the peer what it has not taken on the other side, and asks it for input.
  void resume_loaded() override REQUIRES(bql);
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

 private:
  struct Register {
    uint8_t (Serial16550::*read)();
    void (Serial16550::*write)(uint8_t);
  };
  using Received = Serial16550State::Character;
  static const Register& register_at(uint64_t offset, bool divisor_latch);

  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  Serial16550State state() override REQUIRES(bql);
  Result<void> check_state(const Serial16550State& state) const override REQUIRES(bql);
  void set_state(const Serial16550State& state) override REQUIRES(bql);

  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void event(CharEvent event) override;
  void can_write() override;

  uint8_t read_data() REQUIRES(bql);
  void write_data(uint8_t value) REQUIRES(bql);
  uint8_t read_divisor_low() REQUIRES(bql);
  void write_divisor_low(uint8_t value) REQUIRES(bql);
  uint8_t read_divisor_high() REQUIRES(bql);
  void write_divisor_high(uint8_t value) REQUIRES(bql);
  uint8_t read_interrupt_enable() REQUIRES(bql);
  void write_interrupt_enable(uint8_t value) REQUIRES(bql);
  uint8_t read_interrupt_id() REQUIRES(bql);
  void write_fifo_control(uint8_t value) REQUIRES(bql);
  uint8_t read_line_control() REQUIRES(bql);
  void write_line_control(uint8_t value) REQUIRES(bql);
  uint8_t read_modem_control() REQUIRES(bql);
  void write_modem_control(uint8_t value) REQUIRES(bql);
  uint8_t read_line_status() REQUIRES(bql);
  uint8_t read_modem_status() REQUIRES(bql);
  void write_read_only(uint8_t value) REQUIRES(bql);
  uint8_t read_scratch() REQUIRES(bql);
  void write_scratch(uint8_t value) REQUIRES(bql);

  bool fifo_enabled() const REQUIRES(bql);
  bool loopback() const REQUIRES(bql);
  size_t fifo_depth() const REQUIRES(bql) { return fifo_enabled() ? kFifoDepth : 1; }
  size_t receive_threshold() const REQUIRES(bql);
  uint8_t word_mask() const REQUIRES(bql);
  Nanoseconds character_time() const REQUIRES(bql);

  void clear_receiver() REQUIRES(bql);
  void clear_transmitter() REQUIRES(bql);
  void take_character(Received character) REQUIRES(bql);
  void character_at_front() REQUIRES(bql);
  void restart_timeout() REQUIRES(bql);
  void timeout_expired() REQUIRES(bql);
  void pump() REQUIRES(bql);
  void invite_input() REQUIRES(bql);
  void update_modem_lines() REQUIRES(bql);
  uint8_t line_status() const REQUIRES(bql);
  uint8_t pending_interrupt() const REQUIRES(bql);
  void update_irq() REQUIRES(bql);

  IrqLine irq_ GUARDED_BY(bql);
  CharBackend* backend_ GUARDED_BY(bql) = nullptr;
  memory::MemoryRegion io_;

  uint8_t interrupt_enable_ GUARDED_BY(bql) = 0;
  uint8_t fifo_control_ GUARDED_BY(bql) = 0;  // the bits that stay: enable and trigger level
  uint8_t line_control_ GUARDED_BY(bql) = 0;
  uint8_t modem_control_ GUARDED_BY(bql) = 0;
  uint8_t modem_status_ GUARDED_BY(bql) = 0;
  uint8_t scratch_ GUARDED_BY(bql) = 0;
  uint16_t divisor_ GUARDED_BY(bql) = 0;
  uint8_t line_errors_ GUARDED_BY(bql) = 0;         // OE PE FE BI, until LSR is read
  bool thr_interrupt_ GUARDED_BY(bql) = false;      // THR ran empty, not yet acknowledged
  bool timeout_interrupt_ GUARDED_BY(bql) = false;  // characters wait, nobody came
  bool input_held_ GUARDED_BY(bql) = false;         // the backend was told 0
  internal::Fifo<Received, kFifoDepth> received_ GUARDED_BY(bql);
  internal::Fifo<uint8_t, kFifoDepth> to_send_ GUARDED_BY(bql);  // THR and transmit FIFO
  // The shift register; deeper than the chip's so that clearing the FIFO loses nothing (see
  // clear_transmitter).
  internal::Fifo<uint8_t, Serial16550State::kShifting> shifting_ GUARDED_BY(bql);
  const Clock& clock_;
  internal::DeviceTimer timeout_;  // last: its callback uses all of the above
};

}  // namespace rhea::devices
