// QtestServer: a test's hand on ports, memory, interrupts and the clock of a machine without vCPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/chardev.h"
#include "devices/irq.h"
#include "memory/address_space.h"
#include "util/bql.h"
#include "util/error.h"
#include "util/timer.h"
#include "vmm/qtest_irq.h"
#include "vmm/vm_clock.h"

namespace rhea::vmm {

/// Speaks QEMU's qtest line protocol, so that its clients work. One command a line, one answer a
/// line: "OK", "OK VALUE", "ERR REASON" for a malformed command, "FAIL REASON" for one that can
/// not be done. "IRQ raise N" and "IRQ lower N" come in between when they happen, before the answer
/// to the command that caused them.
///
///   outb|outw|outl ADDR VALUE     inb|inw|inl ADDR
///   writeb|w|l|q ADDR VALUE       readb|w|l|q ADDR
///   write ADDR SIZE 0xHEX         read ADDR SIZE
///   b64write ADDR SIZE BASE64     b64read ADDR SIZE       memset ADDR SIZE VALUE
///   clock_step [NS]               clock_set NS            endianness
///   irq_intercept_in|out PATH     set_irq_in PATH NAME LINE LEVEL
///
/// Thread: main, service context, BQL. Owns: nothing but its buffers; all else outlives it.
/// Errors: every bad line gets an answer, and the next one is a fresh start.
class QtestServer final : public devices::CharFrontend, private devices::IrqSink {
 public:
  /// A longer line is refused; it holds `write` of 16 MiB.
  static constexpr size_t kMaxLineBytes = size_t{33} << 20;
  static constexpr uint64_t kMaxTransferBytes = uint64_t{16} << 20;
  /// While this much output waits for the client, its commands wait too.
  static constexpr size_t kMaxPendingBytes = 65'536;

  struct Machine {
    memory::AddressSpace& memory;
    memory::AddressSpace& io;
    VmClock& clock;
    TimerList& timers;  ///< of `clock`
    IrqInterceptor& irqs;
  };
  QtestServer(const Machine& machine, devices::CharBackend& backend) REQUIRES(bql);
  ~QtestServer() override;
  QtestServer(const QtestServer&) = delete;
  QtestServer& operator=(const QtestServer&) = delete;

  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void event(devices::CharEvent event) override;
  void can_write() override;

 private:
  using Words = std::span<const std::string_view>;
  struct Command;
  static const Command* find_command(std::string_view name);

  void set_irq(unsigned line, bool level) override;
  void run_lines() REQUIRES(bql);
  std::string run_line(std::string_view line) REQUIRES(bql);
  void send(std::string_view line) REQUIRES(bql);
  void flush() REQUIRES(bql);

  // Each gives what follows "OK", or an error: kInvalidArgument answers ERR, any other FAIL.
  Result<std::string> port_write(Words words) REQUIRES(bql);
  Result<std::string> port_read(Words words) REQUIRES(bql);
  Result<std::string> memory_store(Words words) REQUIRES(bql);
  Result<std::string> memory_load(Words words) REQUIRES(bql);
  Result<std::string> memory_write(Words words) REQUIRES(bql);
  Result<std::string> memory_read(Words words) REQUIRES(bql);
  Result<std::string> memory_fill(Words words) REQUIRES(bql);
  Result<std::string> clock_step(Words words) REQUIRES(bql);
  Result<std::string> clock_set(Words words) REQUIRES(bql);
  Result<std::string> endianness(Words words) REQUIRES(bql);
  Result<std::string> intercept(Words words) REQUIRES(bql);
  Result<std::string> set_irq_in(Words words) REQUIRES(bql);
  Result<std::string> refuse_module(Words words) REQUIRES(bql);
  Result<std::string> move_clock(Nanoseconds target) REQUIRES(bql);
  void stop_intercepting() REQUIRES(bql);

  const Machine machine_;
  devices::CharBackend& backend_;
  std::string input_ GUARDED_BY(bql);        // received, not yet run
  size_t scanned_ GUARDED_BY(bql) = 0;       // this much of it holds no end of line
  bool skipping_ GUARDED_BY(bql) = false;    // inside a line that was too long
  std::string output_ GUARDED_BY(bql);       // answered, not yet taken by the backend
  std::string intercepted_ GUARDED_BY(bql);  // the path, empty if none
};

}  // namespace rhea::vmm
