// AcpiPm: the fixed hardware of ACPI: events, sleep control, timer and general-purpose events.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "devices/internal/device_timer.h"
#include "devices/irq.h"
#include "devices/saved_device.h"
#include "memory/io_handler.h"
#include "util/clock.h"
#include "util/timer.h"

namespace rhea::devices {

/// The PM timer's counter. [ACPI-6.4 4.8.3.3]
enum class PmTimerWidth : uint8_t { k24Bits = 24, k32Bits = 32 };

/// The PM timer's port: the machine's clock at 3.579545 MHz.
/// Thread: any, several at once, without a lock: vCPUs read it in tight loops, and a guest's clock
/// must not wait for somebody's BQL.
class AcpiPmTimer final : public memory::IoHandler {
 public:
  static constexpr uint64_t kIoSize = 4;
  static constexpr int64_t kHz = 3'579'545;
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 4, .unaligned = false};

  AcpiPmTimer(const Clock& clock, PmTimerWidth width, GuestErrors& errors)
      : clock_(clock), width_(width), errors_(errors) {}

  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

  /// Not cut to the width: since the machine's clock was 0, or, after a load, since it was 0 on the
  /// machine where the guest started.
  uint64_t ticks() const noexcept;
  /// Goes on from `ticks` here and now. No vCPU runs.
  void go_on_from(uint64_t ticks) noexcept;
  /// The counter's highest bit; TMR_STS is set whenever it changes.
  unsigned top_bit() const noexcept { return static_cast<unsigned>(width_) - 1; }
  /// The first moment at which ticks() reaches `ticks`.
  Nanoseconds moment_of(uint64_t ticks) const noexcept;
  /// The same for a machine that began at 0.
  static Nanoseconds time_of_tick(uint64_t ticks) noexcept;

 private:
  uint64_t clock_ticks() const noexcept;

  const Clock& clock_;
  const PmTimerWidth width_;
  // Of ticks() to those of the clock. Relaxed: it changes while no vCPU runs, and what starts them
  // again orders it.
  std::atomic<uint64_t> offset_{0};
  GuestErrors& errors_;
};

struct AcpiPmState {
  static constexpr std::string_view kKind = "acpi-pm";
  static constexpr uint32_t kVersion = 1;
  uint16_t status = 0;
  uint16_t enable = 0;
  uint16_t control = 0;
  uint16_t gpe_status = 0;
  uint16_t gpe_enable = 0;
  uint64_t timer_ticks = 0;  // not cut to the counter's width
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("status", s.status);
    v.field("enable", s.enable);
    v.field("control", s.control);
    v.field("gpe_status", s.gpe_status);
    v.field("gpe_enable", s.gpe_enable);
    v.field("timer_ticks", s.timer_ticks);
  }
};

/// The register blocks, all feeding one level-triggered SCI. The machine is always in ACPI mode:
/// SCI_EN is set and there is no SMI_CMD.
///
/// Thread: BQL, but for the timer's port. Errors: sleep types other than S5's are reported and
/// wake at once.
class AcpiPm final : public SavedDevice<AcpiPmState> {
 public:
  static constexpr uint64_t kEventsSize = 6;  ///< PM1_STS, PM1_EN, PM1_CNT, a word each
  static constexpr uint64_t kGpeSize = 4;     ///< GPE0_STS, GPE0_EN, a word each
  static constexpr unsigned kGpes = 16;
  /// SLP_TYP of \_S5, as the DSDT says it; QEMU's, so that its users' `outw 0x604 0x2000` works.
  static constexpr uint8_t kSleepTypeS5 = 0;
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 4, .unaligned = true};

  /// `timers` is the machine's clock. `power_off` is called when the guest enters S5; it only asks.
  AcpiPm(std::string id, IrqLine sci, TimerList& timers, PmTimerWidth width,
         std::move_only_function<void()> power_off);

  memory::MemoryRegion& events() noexcept { return events_region_; }  ///< at 0x600
  memory::MemoryRegion& timer() noexcept { return timer_region_; }    ///< at 0x608, lock-free
  memory::MemoryRegion& gpe() noexcept { return gpe_region_; }        ///< at 0xafe0
  memory::IoHandler& events_handler() noexcept { return events_handler_; }
  memory::IoHandler& timer_handler() noexcept { return timer_handler_; }
  memory::IoHandler& gpe_handler() noexcept { return gpe_handler_; }

  /// Presses the power button.
  void power_button() REQUIRES(bql);
  /// Sets a general-purpose event's status bit.
  void raise_gpe(unsigned bit) REQUIRES(bql);
  /// `listens` is called whenever the guest enables that event: a status from before it is likely
  /// to have been cleared unseen. At most one. Before the guest runs.
  void set_gpe_listener(unsigned bit, std::move_only_function<void()> listens) REQUIRES(bql);

  void reset() override REQUIRES(bql);

 private:
  /// One register block, accessed by bytes: all of its registers are words, low byte first.
  struct Block final : memory::IoHandler {
    using Read = uint8_t (AcpiPm::*)(uint64_t);
    using Write = void (AcpiPm::*)(uint64_t, uint8_t);
    Block(AcpiPm& pm, Read reader, Write writer) : owner(pm), read(reader), write(writer) {}
    uint64_t io_read(uint64_t offset, unsigned size) override;
    void io_write(uint64_t offset, uint64_t value, unsigned size) override;
    AcpiPm& owner;
    const Read read;
    const Write write;
  };

  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);
  AcpiPmState state() override REQUIRES(bql);
  Result<void> check_state(const AcpiPmState& state) const override REQUIRES(bql);
  void set_state(const AcpiPmState& state) override REQUIRES(bql);

  uint8_t read_event_byte(uint64_t offset) REQUIRES(bql);
  void write_event_byte(uint64_t offset, uint8_t value) REQUIRES(bql);
  uint8_t read_gpe_byte(uint64_t offset) REQUIRES(bql);
  void write_gpe_byte(uint64_t offset, uint8_t value) REQUIRES(bql);
  void enable_gpes(uint16_t enable) REQUIRES(bql);
  void sleep() REQUIRES(bql);
  void catch_up() REQUIRES(bql);
  void update() REQUIRES(bql);

  IrqLine sci_ GUARDED_BY(bql);
  std::move_only_function<void()> power_off_ GUARDED_BY(bql);
  AcpiPmTimer timer_handler_;
  Block events_handler_;
  Block gpe_handler_;
  memory::MemoryRegion events_region_;
  memory::MemoryRegion timer_region_;
  memory::MemoryRegion gpe_region_;

  uint16_t status_ GUARDED_BY(bql) = 0;
  uint16_t enable_ GUARDED_BY(bql) = 0;
  uint16_t control_ GUARDED_BY(bql) = 0;
  uint16_t gpe_status_ GUARDED_BY(bql) = 0;
  uint16_t gpe_enable_ GUARDED_BY(bql) = 0;
  uint16_t listened_gpe_ GUARDED_BY(bql) = 0;  // its bit
  std::move_only_function<void()> gpe_listens_ GUARDED_BY(bql);
  uint64_t seen_half_periods_ GUARDED_BY(bql) = 0;  // changes of the timer's top bit, so far
  internal::DeviceTimer wakeup_;                    // last: its callback uses all of the above
};

}  // namespace rhea::devices
