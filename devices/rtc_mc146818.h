// RtcMc146818: the real-time clock and CMOS memory of a PC, ports 0x70 and 0x71.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "devices/internal/device_timer.h"
#include "devices/irq.h"
#include "devices/rtc_calendar.h"
#include "devices/saved_device.h"
#include "memory/io_handler.h"
#include "util/clock.h"
#include "util/timer.h"

namespace rhea::devices {

/// The chip's registers, reached through the index port. [MC146818A, Address map]
enum class RtcReg : uint8_t {
  kSecond = 0x00,
  kSecondAlarm = 0x01,
  kMinute = 0x02,
  kMinuteAlarm = 0x03,
  kHour = 0x04,
  kHourAlarm = 0x05,
  kWeekday = 0x06,
  kDay = 0x07,
  kMonth = 0x08,
  kYear = 0x09,
  kA = 0x0a,
  kB = 0x0b,
  kC = 0x0c,
  kD = 0x0d,
  kCentury = 0x32,  ///< not the chip's: where the FADT says that a PC keeps it
};

struct RtcMc146818State {
  static constexpr std::string_view kKind = "mc146818";
  static constexpr uint32_t kVersion = 1;
  uint8_t index = 0;
  std::array<uint8_t, 128> memory{};
  int64_t offset_ns = 0;       // of the guest's date to UTC
  uint8_t weekday_offset = 0;  // of the guest's weekday to its date
  int64_t seen_second = 0;     // flags are worked out up to this date
  uint16_t divider = 0;        // crystal ticks, as far as they matter to the slowest interrupt
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("index", s.index);
    v.field("memory", s.memory);
    v.field("offset_ns", s.offset_ns);
    v.field("weekday_offset", s.weekday_offset);
    v.field("seen_second", s.seen_second);
    v.field("divider", s.divider);
  }
};

/// The clock.
///
/// Two times meet here. The date is host UTC plus an offset that the guest moves by setting the
/// clock: it follows the host even across a pause, as a battery-backed clock does. Ticks (periodic
/// interrupt, the timers that wait for a second to end) are the machine's time. Flags are worked
/// out when somebody looks, and a timer is armed only for an interrupt that is enabled and not
/// raised yet, so an idle clock costs no wake-ups.
///
/// Thread: BQL. Errors: a date that does not exist is reported, and the clock goes on from where
/// it was; daylight saving (B.DSE) is stored and has no effect, as on PC chipsets.
class RtcMc146818 final : public SavedDevice<RtcMc146818State>, public memory::IoHandler {
 public:
  static constexpr uint64_t kIoSize = 2;
  static constexpr size_t kMemoryBytes = 128;
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 1, .unaligned = true};

  /// `utc` gives nanoseconds since 1970; `timers` is the machine's clock.
  RtcMc146818(std::string id, IrqLine irq, const Clock& utc, TimerList& timers);

  memory::MemoryRegion& io() noexcept { return io_; }

  /// What the machine leaves for firmware in the CMOS memory (0x0e to 0x7f, without the century).
  void set_memory(uint8_t index, uint8_t value) REQUIRES(bql);

  void reset() override REQUIRES(bql);
  /// The date went on while the machine's clock stood.
  void resume_loaded() override REQUIRES(bql) { update(); }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, uint64_t value, unsigned size) override;

 private:
  Result<void> do_realize() override REQUIRES(bql);
  void do_unrealize() override REQUIRES(bql);

  RtcMc146818State state() override REQUIRES(bql);
  Result<void> check_state(const RtcMc146818State& state) const override REQUIRES(bql);
  void set_state(const RtcMc146818State& state) override REQUIRES(bql);

  uint8_t read_register(uint8_t index) REQUIRES(bql);
  void write_register(uint8_t index, uint8_t value) REQUIRES(bql);
  uint8_t read_a() REQUIRES(bql);
  uint8_t read_c() REQUIRES(bql);
  void write_a(uint8_t value) REQUIRES(bql);
  void write_b(uint8_t value) REQUIRES(bql);
  void write_time(uint8_t index, uint8_t value) REQUIRES(bql);

  bool updating() const REQUIRES(bql);
  RtcNotation notation() const REQUIRES(bql);
  Nanoseconds date() const REQUIRES(bql) { return utc_.now() + offset_; }
  int64_t date_seconds() const REQUIRES(bql);
  void show_date() REQUIRES(bql);
  void take_date() REQUIRES(bql);
  void restart_divider() REQUIRES(bql);
  uint64_t divider() const REQUIRES(bql);
  uint64_t periodic_ticks() const REQUIRES(bql);
  uint64_t periodic_count() const REQUIRES(bql);

  void catch_up() REQUIRES(bql);
  void update() REQUIRES(bql);
  std::optional<Nanoseconds> next_event() const REQUIRES(bql);

  IrqLine irq_ GUARDED_BY(bql);
  const Clock& utc_;
  const Clock& machine_clock_;
  memory::MemoryRegion io_;

  uint8_t index_ GUARDED_BY(bql) = 0;
  /// All registers as last shown or written; the time registers are refreshed when read.
  std::array<uint8_t, kMemoryBytes> memory_ GUARDED_BY(bql){};
  Nanoseconds offset_ GUARDED_BY(bql){0};        // date = utc + offset
  unsigned weekday_offset_ GUARDED_BY(bql) = 0;  // the weekday counts apart from the date
  int64_t seen_second_ GUARDED_BY(bql) = 0;      // flags are worked out up to this second
  uint64_t seen_period_ GUARDED_BY(bql) = 0;     // and up to this period
  uint64_t divider_offset_ GUARDED_BY(bql) = 0;  // crystal ticks before the machine's clock was 0
  internal::DeviceTimer timer_;                  // last: its callback uses all of the above
};

}  // namespace rhea::devices
