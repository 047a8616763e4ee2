#include "devices/rtc_mc146818.h"

#include <algorithm>
#include <utility>

#include "util/log.h"

namespace rhea::devices {
namespace {

constexpr uint8_t at(RtcReg reg) { return std::to_underlying(reg); }

// [MC146818A, Register A]
constexpr uint8_t kAUpdateInProgress = 0x80;
constexpr uint8_t kADividerBits = 0x70;
constexpr uint8_t kADividerHeld = 0x60;  // 11x: the divider chain is held in reset
constexpr uint8_t kARateBits = 0x0f;
constexpr uint8_t kAAtPowerOn = 0x26;  // 32.768 kHz, 1024 Hz: what a PC's firmware leaves

// [MC146818A, Register B]
constexpr uint8_t kBSet = 0x80;
constexpr uint8_t kBPeriodic = 0x40;
constexpr uint8_t kBAlarm = 0x20;
constexpr uint8_t kBUpdateEnded = 0x10;
constexpr uint8_t kBSquareWave = 0x08;
constexpr uint8_t kBBinary = 0x04;
constexpr uint8_t kB24Hours = 0x02;
constexpr uint8_t kBInterrupts = kBPeriodic | kBAlarm | kBUpdateEnded;

// The flags of register C stand where B has their enables. [MC146818A, Register C]
constexpr uint8_t kCInterrupt = 0x80;

constexpr uint8_t kDValid = 0x80;   // the battery is good [MC146818A, Register D]
constexpr uint8_t kNmiMask = 0x80;  // index port bit 7: the NMI gate of a PC, not the chip's

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kCrystalHz = 32'768;
constexpr uint64_t kSlowestPeriod = uint64_t{1} << 14;  // crystal ticks, at rate 15
// UIP rises this long before an update, so that who sees it low has the time to read all.
constexpr Nanoseconds kUpdateWarning = std::chrono::microseconds(244);

constexpr bool is_time(uint8_t index) {
  return index == at(RtcReg::kCentury) || index == at(RtcReg::kSecond) ||
         index == at(RtcReg::kMinute) || index == at(RtcReg::kHour) ||
         (index >= at(RtcReg::kWeekday) && index <= at(RtcReg::kYear));
}

/// Dates that the clock keeps, in seconds since 1970: 1833 to 2242. Nanoseconds in 64 bits end in
/// 2262, and a date has to stay clear of that for as long as the host's clock drives it on.
constexpr bool is_kept(int64_t date) {
  return date >= -(int64_t{1} << 32) && date < int64_t{1} << 33;
}

int64_t floor_seconds(Nanoseconds t) { return std::chrono::floor<std::chrono::seconds>(t).count(); }

/// Crystal ticks since the machine's clock was 0, without overflow.
uint64_t crystal_ticks(Nanoseconds t) {
  const int64_t seconds = t.count() / kNsPerSecond;
  const int64_t rest = t.count() % kNsPerSecond;
  return static_cast<uint64_t>(seconds * kCrystalHz + rest * kCrystalHz / kNsPerSecond);
}

/// The first moment at which crystal_ticks() reaches `ticks`.
Nanoseconds time_of_tick(uint64_t ticks) {
  const auto signed_ticks = static_cast<int64_t>(ticks);
  const int64_t rest = signed_ticks % kCrystalHz;
  return Nanoseconds(signed_ticks / kCrystalHz * kNsPerSecond +
                     (rest * kNsPerSecond + kCrystalHz - 1) / kCrystalHz);
}

}  // namespace

RtcMc146818::RtcMc146818(std::string id, IrqLine irq, const Clock& utc, TimerList& timers)
    : SavedDevice(std::move(id)),
      irq_(irq),
      utc_(utc),
      machine_clock_(timers.clock()),
      io_(this->id(), kIoSize, *this, kAccess),
      timer_(timers, [this] {
        bql.assert_held();
        update();
      }) {
  memory_[at(RtcReg::kA)] = kAAtPowerOn;
  memory_[at(RtcReg::kB)] = kB24Hours;
}

Result<void> RtcMc146818::do_realize() {
  own(io_);
  seen_second_ = date_seconds();
  seen_period_ = periodic_count();
  return ok();
}

void RtcMc146818::do_unrealize() {
  timer_.release();
  std::exchange(irq_, IrqLine()).lower();
}

// The reset pin clears enables and flags; time, alarm and memory live on. [MC146818A, RESET]
void RtcMc146818::reset() {
  catch_up();
  memory_[at(RtcReg::kB)] &= static_cast<uint8_t>(~(kBInterrupts | kBSquareWave));
  memory_[at(RtcReg::kC)] = 0;
  update();
}

void RtcMc146818::set_memory(uint8_t index, uint8_t value) {
  RHEA_CHECK(index > at(RtcReg::kD) && index < kMemoryBytes && !is_time(index));
  memory_[index] = value;
}

uint64_t RtcMc146818::io_read(uint64_t offset, unsigned /*size*/) {
  bql.assert_held();
  if (offset == 0) return 0xff;  // a PC's index port can not be read
  const uint8_t value = read_register(index_);
  RHEA_TRACE(kDevices, "rtc_read index={:#04x} value={:#04x}", index_, value);
  return value;
}

void RtcMc146818::io_write(uint64_t offset, uint64_t value, unsigned /*size*/) {
  bql.assert_held();
  if (offset == 0) {
    index_ = static_cast<uint8_t>(value & ~uint64_t{kNmiMask} & 0xff);
    return;
  }
  RHEA_TRACE(kDevices, "rtc_write index={:#04x} value={:#04x}", index_, value);
  write_register(index_, static_cast<uint8_t>(value));
}

uint8_t RtcMc146818::read_register(uint8_t index) {
  if (index == at(RtcReg::kA)) return read_a();
  if (index == at(RtcReg::kC)) return read_c();
  if (index == at(RtcReg::kD)) return kDValid;
  if (is_time(index) && updating()) show_date();
  return memory_[index];
}

void RtcMc146818::write_register(uint8_t index, uint8_t value) {
  if (index == at(RtcReg::kA)) return write_a(value);
  if (index == at(RtcReg::kB)) return write_b(value);
  if (index == at(RtcReg::kC) || index == at(RtcReg::kD)) {
    return errors().report(GuestError::kReadOnly, index, value);
  }
  if (is_time(index)) return write_time(index, value);
  catch_up();  // an alarm register: up to now the old alarm counted
  memory_[index] = value;
  update();
}

bool RtcMc146818::updating() const {
  return (memory_[at(RtcReg::kB)] & kBSet) == 0 &&
         (memory_[at(RtcReg::kA)] & kADividerHeld) != kADividerHeld;
}

RtcNotation RtcMc146818::notation() const {
  const uint8_t b = memory_[at(RtcReg::kB)];
  return {.binary = (b & kBBinary) != 0, .hours_24 = (b & kB24Hours) != 0};
}

int64_t RtcMc146818::date_seconds() const { return floor_seconds(date()); }

/// Copies the date into the registers.
void RtcMc146818::show_date() {
  const RtcTime time = rtc_time_from_unix(date_seconds(), notation());
  memory_[at(RtcReg::kSecond)] = time.second;
  memory_[at(RtcReg::kMinute)] = time.minute;
  memory_[at(RtcReg::kHour)] = time.hour;
  // 1 to 7 read the same in BCD and binary
  memory_[at(RtcReg::kWeekday)] =
      static_cast<uint8_t>((time.weekday - 1U + weekday_offset_) % 7 + 1);
  memory_[at(RtcReg::kDay)] = time.day;
  memory_[at(RtcReg::kMonth)] = time.month;
  memory_[at(RtcReg::kYear)] = time.year;
  memory_[at(RtcReg::kCentury)] = time.century;
}

/// Makes what the registers hold the date. The fraction of the second stays as it is.
void RtcMc146818::take_date() {
  const RtcTime time{.second = memory_[at(RtcReg::kSecond)],
                     .minute = memory_[at(RtcReg::kMinute)],
                     .hour = memory_[at(RtcReg::kHour)],
                     .weekday = memory_[at(RtcReg::kWeekday)],
                     .day = memory_[at(RtcReg::kDay)],
                     .month = memory_[at(RtcReg::kMonth)],
                     .year = memory_[at(RtcReg::kYear)],
                     .century = memory_[at(RtcReg::kCentury)]};
  const auto seconds = unix_from_rtc_time(time, notation());
  if (!seconds || !is_kept(*seconds)) {
    errors().report(GuestError::kBadValue, at(RtcReg::kSecond), 0);
    return;  // the clock goes on from where it was
  }
  offset_ += std::chrono::seconds(*seconds - date_seconds());
  const RtcTime plain = rtc_time_from_unix(*seconds, notation());
  weekday_offset_ = (time.weekday % 7U + 7U - plain.weekday % 7U) % 7U;
  seen_second_ = *seconds;
}

uint8_t RtcMc146818::read_a() {
  const uint8_t a = memory_[at(RtcReg::kA)];
  if (!updating()) return a;
  const Nanoseconds left = std::chrono::seconds(date_seconds() + 1) - date();
  return static_cast<uint8_t>(a | (left <= kUpdateWarning ? kAUpdateInProgress : 0));
}

void RtcMc146818::write_a(uint8_t value) {
  catch_up();
  const bool was_updating = updating();
  const uint8_t before = memory_[at(RtcReg::kA)];
  const bool was_held = (before & kADividerHeld) == kADividerHeld;
  const bool held = (value & kADividerHeld) == kADividerHeld;
  if (was_updating && held) show_date();
  memory_[at(RtcReg::kA)] = value & (kADividerBits | kARateBits);
  if (was_held && !held) restart_divider();
  seen_period_ = periodic_count();
  update();
}

/// The first update comes half a second after the divider is let go. [MC146818A, Divider control]
void RtcMc146818::restart_divider() {
  if ((memory_[at(RtcReg::kB)] & kBSet) == 0) take_date();
  const Nanoseconds fraction = date() - std::chrono::seconds(date_seconds());
  offset_ += std::chrono::milliseconds(500) - fraction;
  seen_second_ = date_seconds();
}

void RtcMc146818::write_b(uint8_t value) {
  catch_up();
  const bool was_updating = updating();
  if (was_updating) show_date();
  if ((value & kBSet) != 0)
    value &= static_cast<uint8_t>(~kBUpdateEnded);  // [MC146818A, Register B]
  memory_[at(RtcReg::kB)] = value;
  if (!was_updating && updating()) take_date();
  update();
}

void RtcMc146818::write_time(uint8_t index, uint8_t value) {
  if (updating()) {
    catch_up();
    show_date();
  }
  memory_[index] = value;
  if (!updating()) return;
  take_date();
  update();
}

uint8_t RtcMc146818::read_c() {
  catch_up();
  const uint8_t flags = std::exchange(memory_[at(RtcReg::kC)], uint8_t{0});
  const bool interrupt = (flags & memory_[at(RtcReg::kB)] & kBInterrupts) != 0;
  update();
  return static_cast<uint8_t>(flags | (interrupt ? kCInterrupt : 0));
}

// --- Interrupts -------------------------------------------------------------------------------

/// Crystal ticks between periodic interrupts; 0 for none. [MC146818A, Periodic interrupt rate]
uint64_t RtcMc146818::periodic_ticks() const {
  const unsigned rate = memory_[at(RtcReg::kA)] & kARateBits;
  const bool held = (memory_[at(RtcReg::kA)] & kADividerHeld) == kADividerHeld;
  if (rate == 0 || held) return 0;
  return uint64_t{1} << (rate <= 2 ? rate + 6 : rate - 1);
}

/// Crystal ticks so far; what a guest was started with elsewhere counts, as far as it matters.
uint64_t RtcMc146818::divider() const {
  return crystal_ticks(machine_clock_.now()) + divider_offset_;
}

uint64_t RtcMc146818::periodic_count() const {
  const uint64_t period = periodic_ticks();
  return period == 0 ? 0 : divider() / period;
}

/// Sets the flags that have come due since the last look.
void RtcMc146818::catch_up() {
  uint8_t& flags = memory_[at(RtcReg::kC)];
  const uint64_t period = periodic_count();
  if (period != seen_period_) flags |= kBPeriodic;
  seen_period_ = period;

  const int64_t second = date_seconds();
  if (updating() && second > seen_second_) {
    flags |= kBUpdateEnded;
    const Alarm alarm =
        decode_alarm(memory_[at(RtcReg::kSecondAlarm)], memory_[at(RtcReg::kMinuteAlarm)],
                     memory_[at(RtcReg::kHourAlarm)], notation());
    const auto match = next_alarm(alarm, seen_second_);
    if (match && *match <= second) flags |= kBAlarm;
  }
  seen_second_ = second;
}

/// Brings flags, interrupt line and timer up to date.
void RtcMc146818::update() {
  catch_up();
  const bool raised = (memory_[at(RtcReg::kB)] & memory_[at(RtcReg::kC)] & kBInterrupts) != 0;
  irq_.set(raised);
  const auto next = raised ? std::nullopt : next_event();
  if (next) {
    timer_.arm_at(*next);
  } else {
    timer_.cancel();  // nothing can change before the guest reads register C
  }
}

/// When, on the machine's clock, an enabled interrupt comes due.
std::optional<Nanoseconds> RtcMc146818::next_event() const {
  const uint8_t enabled = memory_[at(RtcReg::kB)] & kBInterrupts;
  std::optional<Nanoseconds> next;
  const auto consider = [&next](Nanoseconds t) { next = next ? std::min(*next, t) : t; };
  if ((enabled & kBPeriodic) != 0 && periodic_ticks() != 0) {
    consider(time_of_tick((seen_period_ + 1) * periodic_ticks() - divider_offset_));
  }
  if (!updating()) return next;
  const Nanoseconds date_to_machine = machine_clock_.now() - date();
  const auto consider_second = [&](int64_t second) {
    consider(std::chrono::seconds(second) + date_to_machine);
  };
  if ((enabled & kBUpdateEnded) != 0) consider_second(seen_second_ + 1);
  if ((enabled & kBAlarm) != 0) {
    const Alarm alarm =
        decode_alarm(memory_[at(RtcReg::kSecondAlarm)], memory_[at(RtcReg::kMinuteAlarm)],
                     memory_[at(RtcReg::kHourAlarm)], notation());
    if (const auto match = next_alarm(alarm, seen_second_)) consider_second(*match);
  }
  return next;
}

// --- Migration --------------------------------------------------------------------------------

RtcMc146818State RtcMc146818::state() {
  catch_up();
  return {.index = index_,
          .memory = memory_,
          .offset_ns = offset_.count(),
          .weekday_offset = static_cast<uint8_t>(weekday_offset_),
          .seen_second = seen_second_,
          .divider = static_cast<uint16_t>(divider() % kSlowestPeriod)};
}

Result<void> RtcMc146818::check_state(const RtcMc146818State& state) const {
  TRY(check_at_most("index", state.index, kMemoryBytes - 1));
  const auto bits = [&state](RtcReg reg, uint64_t allowed) -> Result<void> {
    return check_bits("memory", state.memory[at(reg)], allowed);
  };
  TRY(bits(RtcReg::kA, kADividerBits | kARateBits));
  if ((state.memory[at(RtcReg::kB)] & kBSet) != 0) TRY(bits(RtcReg::kB, 0xff & ~kBUpdateEnded));
  TRY(bits(RtcReg::kC, kBInterrupts));
  TRY(bits(RtcReg::kD, 0));
  int64_t date = 0;
  if (__builtin_add_overflow(utc_.now().count(), state.offset_ns, &date) ||
      !is_kept(floor_seconds(Nanoseconds(date)))) {
    return bad_state("offset_ns", "{} leads to no date that is kept", state.offset_ns);
  }
  TRY(check_at_most("weekday_offset", state.weekday_offset, 6));
  if (!is_kept(state.seen_second)) {
    return bad_state("seen_second", "{} is no date that is kept", state.seen_second);
  }
  return check_at_most("divider", state.divider, kSlowestPeriod - 1);
}

// Seconds that passed on the way raise their flags here: the date follows the host's.
void RtcMc146818::set_state(const RtcMc146818State& state) {
  index_ = state.index;
  memory_ = state.memory;
  offset_ = Nanoseconds(state.offset_ns);
  weekday_offset_ = state.weekday_offset;
  seen_second_ = state.seen_second;
  divider_offset_ = (state.divider - crystal_ticks(machine_clock_.now())) % kSlowestPeriod;
  seen_period_ = periodic_count();
  update();
}

}  // namespace rhea::devices
