// I8042: the keyboard controller of a PC, ports 0x60 and 0x64.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/internal/fifo.h"
#include "devices/irq.h"
#include "devices/ps2_keyboard.h"
#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct I8042State {
  static constexpr std::string_view kKind = "i8042";
  static constexpr uint32_t kVersion = 1;
  static constexpr size_t kMaxReplies = 16;

  /// A byte for port 0x60.
  struct Output {
    uint8_t byte = 0;
    uint8_t source = 0;  // 0 controller, 1 keyboard, 2 second port
    uint8_t status = 0;  // status bits that go with this byte
    template <class Visitor, class Self>
    static void describe(Visitor& v, Self& s) {
      v.field("byte", s.byte);
      v.field("source", s.source);
      v.field("status", s.status);
    }
  };

  uint8_t command_byte = 0;
  uint8_t output_latch = 0;
  bool last_was_command = false;
  bool self_tested = false;
  uint8_t waiting = 0;         // the command that wants its argument; 0: none
  std::vector<Output> buffer;  // one or none
  std::vector<Output> replies;
  Ps2KeyboardState keyboard;

  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("command_byte", s.command_byte);
    v.field("output_latch", s.output_latch);
    v.field("last_was_command", s.last_was_command);
    v.field("self_tested", s.self_tested);
    v.field("waiting", s.waiting);
    v.field("buffer", s.buffer, 1);
    v.field("replies", s.replies, kMaxReplies);
    v.field("keyboard", s.keyboard);
  }
};

/// The controller with a keyboard on its first port and nothing on its second.
///
/// It is here for three reasons: guests reset the machine through it, their probe must find what
/// it looks for at once (an absent controller costs Linux half a second of time-outs), and old
/// loaders wait for its status bits. A byte sent to the empty second port is answered at once with
/// Resend and the time-out bit, as a controller does whose device is gone.
///
/// There is no firmware, so the reset state is what firmware leaves behind: self-test passed,
/// keyboard on, translation on, second port off. A20 is a bit that is remembered: the address line
/// is never masked.
///
/// Thread: BQL. Errors: unknown commands are reported and ignored.
class I8042 final : public SavedDevice<I8042State> {
 public:
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 1, .unaligned = true};

  /// `request_reset` is called when the guest pulls the reset line; it only asks (the machine
  /// resets later, not inside the guest's store).
  I8042(std::string id, IrqLine keyboard_irq, IrqLine aux_irq,
        std::move_only_function<void()> request_reset);

  memory::MemoryRegion& data_port() noexcept { return data_region_; }        ///< 0x60, one byte
  memory::MemoryRegion& command_port() noexcept { return command_region_; }  ///< 0x64, one byte
  memory::IoHandler& data_handler() noexcept { return data_handler_; }
  memory::IoHandler& command_handler() noexcept { return command_handler_; }

  void reset() override REQUIRES(bql);

 private:
  enum class Command : uint8_t;
  enum class Source : uint8_t { kController, kKeyboard, kAux };
  struct Output {
    I8042State::Output saved() const { return {byte, std::to_underlying(source), status}; }
    static Output loaded(const I8042State::Output& o) {
      return {o.byte, Source{o.source}, o.status};
    }
    uint8_t byte = 0;
    Source source = Source::kController;
    uint8_t status = 0;  // status bits that go with this byte
  };
  struct DataPort final : memory::IoHandler {
    explicit DataPort(I8042& controller) : owner(controller) {}
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    I8042& owner;
  };
  struct CommandPort final : memory::IoHandler {
    explicit CommandPort(I8042& controller) : owner(controller) {}
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    I8042& owner;
  };

  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);

  I8042State state() override REQUIRES(bql);
  Result<void> check_state(const I8042State& state) const override REQUIRES(bql);
  void set_state(const I8042State& state) override REQUIRES(bql);

  uint8_t read_data() REQUIRES(bql);
  void write_data(uint8_t byte) REQUIRES(bql);
  uint8_t status() const REQUIRES(bql);
  void command(uint8_t byte) REQUIRES(bql);
  static bool takes_argument(Command command);
  void command_with_argument(Command command, uint8_t byte) REQUIRES(bql);
  void pulse_output(uint8_t low_bits) REQUIRES(bql);
  void write_output_port(uint8_t value) REQUIRES(bql);
  uint8_t output_port() const REQUIRES(bql);
  void to_keyboard(uint8_t byte) REQUIRES(bql);
  void reply(uint8_t byte, Source source = Source::kController, uint8_t status = 0) REQUIRES(bql);
  void fill_output_buffer() REQUIRES(bql);
  void update_irq() REQUIRES(bql);

  IrqLine keyboard_irq_ GUARDED_BY(bql);
  IrqLine aux_irq_ GUARDED_BY(bql);
  std::move_only_function<void()> request_reset_ GUARDED_BY(bql);
  DataPort data_handler_{*this};
  CommandPort command_handler_{*this};
  memory::MemoryRegion data_region_;
  memory::MemoryRegion command_region_;

  Ps2Keyboard keyboard_ GUARDED_BY(bql);
  uint8_t command_byte_ GUARDED_BY(bql) = 0;
  uint8_t output_latch_ GUARDED_BY(bql) = 0;
  bool last_was_command_ GUARDED_BY(bql) = false;
  bool self_tested_ GUARDED_BY(bql) = false;
  std::optional<Command> waiting_ GUARDED_BY(bql);  // wants its argument through port 0x60
  std::optional<Output> buffer_ GUARDED_BY(bql);    // what port 0x60 shows
  internal::Fifo<Output, I8042State::kMaxReplies> replies_ GUARDED_BY(bql);
};

}  // namespace rhea::devices
