#include "devices/acpi_pm.h"

#include <utility>

#include "util/log.h"

namespace rhea::devices {
namespace {

// PM1 status; the enables stand in the same places. [ACPI-6.4 4.8.3.1]
constexpr uint16_t kTimer = 1 << 0;
constexpr uint16_t kBusMaster = 1 << 4;
constexpr uint16_t kGlobal = 1 << 5;
constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kSleepButton = 1 << 9;
constexpr uint16_t kRtc = 1 << 10;
constexpr uint16_t kWake = 1 << 15;
constexpr uint16_t kStatusBits =
    kTimer | kBusMaster | kGlobal | kPowerButton | kSleepButton | kRtc | kWake;
constexpr uint16_t kEnableBits = kTimer | kGlobal | kPowerButton | kSleepButton | kRtc;

// PM1 control. [ACPI-6.4 4.8.3.2.1]
constexpr uint16_t kSciEnable = 1 << 0;
constexpr uint16_t kBusMasterReload = 1 << 1;
constexpr uint16_t kSleepTypeShift = 10;
constexpr uint16_t kSleepTypeBits = 7 << kSleepTypeShift;
constexpr uint16_t kSleepEnable = 1 << 13;
constexpr uint16_t kControlBits = kBusMasterReload | kSleepTypeBits;

enum class EventReg : uint8_t { kStatus = 0, kEnable = 1, kControl = 2 };
enum class GpeReg : uint8_t { kStatus = 0, kEnable = 1 };

constexpr int64_t kNsPerSecond = 1'000'000'000;
// A hundred years; what a clock in nanoseconds counts to in ticks is three times that.
constexpr uint64_t kMaxTimerTicks = uint64_t{100} * 366 * 86'400 * AcpiPmTimer::kHz;

uint8_t byte_of(uint16_t word, uint64_t offset) {
  return static_cast<uint8_t>(word >> (offset % 2 * 8));
}
/// `value` placed where the byte at `offset` stands in its word.
uint16_t in_word(uint8_t value, uint64_t offset) {
  return static_cast<uint16_t>(value << (offset % 2 * 8));
}
uint16_t with_byte(uint16_t word, uint64_t offset, uint8_t value) {
  return static_cast<uint16_t>((word & ~in_word(0xff, offset)) | in_word(value, offset));
}

}  // namespace

// --- Timer ------------------------------------------------------------------------------------

uint64_t AcpiPmTimer::ticks() const noexcept {
  return clock_ticks() + offset_.load(std::memory_order_relaxed);
}

void AcpiPmTimer::go_on_from(uint64_t ticks) noexcept {
  offset_.store(ticks - clock_ticks(), std::memory_order_relaxed);
}

uint64_t AcpiPmTimer::clock_ticks() const noexcept {
  const int64_t now = clock_.now().count();
  return static_cast<uint64_t>(now / kNsPerSecond * kHz + now % kNsPerSecond * kHz / kNsPerSecond);
}

Nanoseconds AcpiPmTimer::moment_of(uint64_t ticks) const noexcept {
  return time_of_tick(ticks - offset_.load(std::memory_order_relaxed));
}

Nanoseconds AcpiPmTimer::time_of_tick(uint64_t ticks) noexcept {
  const auto t = static_cast<int64_t>(ticks);
  return Nanoseconds(t / kHz * kNsPerSecond + (t % kHz * kNsPerSecond + kHz - 1) / kHz);
}

uint64_t AcpiPmTimer::io_read(uint64_t offset, unsigned size) {
  const uint64_t counter = ticks() & ((uint64_t{1} << static_cast<unsigned>(width_)) - 1);
  const uint64_t mask = (uint64_t{1} << (size * 8)) - 1;
  return counter >> (offset * 8) & mask;
}

void AcpiPmTimer::io_write(uint64_t offset, uint64_t value, unsigned) {
  errors_.report(GuestError::kReadOnly, offset, value);
}

// --- Register blocks --------------------------------------------------------------------------

AcpiPm::AcpiPm(std::string id, IrqLine sci, TimerList& timers, PmTimerWidth width,
               std::move_only_function<void()> power_off)
    : SavedDevice(std::move(id)),
      sci_(sci),
      power_off_(std::move(power_off)),
      timer_handler_(timers.clock(), width, errors()),
      events_handler_(*this, &AcpiPm::read_event_byte, &AcpiPm::write_event_byte),
      gpe_handler_(*this, &AcpiPm::read_gpe_byte, &AcpiPm::write_gpe_byte),
      events_region_(this->id() + "-events", kEventsSize, events_handler_, kAccess),
      timer_region_(this->id() + "-timer", AcpiPmTimer::kIoSize, timer_handler_,
                    AcpiPmTimer::kAccess, memory::IoLocking::kLockFree),
      gpe_region_(this->id() + "-gpe", kGpeSize, gpe_handler_, kAccess),
      wakeup_(timers, [this] {
        bql.assert_held();
        update();
      }) {}

Result<void> AcpiPm::do_realize() {
  own(events_region_);
  own(timer_region_);
  own(gpe_region_);
  return ok();
}

void AcpiPm::do_unrealize() {
  power_off_ = nullptr;
  gpe_listens_ = nullptr;
  wakeup_.release();
  std::exchange(sci_, IrqLine()).lower();
}

void AcpiPm::reset() {
  catch_up();
  status_ = enable_ = control_ = 0;
  gpe_status_ = gpe_enable_ = 0;
  update();
}

void AcpiPm::power_button() {
  status_ |= kPowerButton;
  update();
}

void AcpiPm::raise_gpe(unsigned bit) {
  RHEA_CHECK(bit < kGpes);
  gpe_status_ = static_cast<uint16_t>(gpe_status_ | 1U << bit);
  update();
}

uint64_t AcpiPm::Block::io_read(uint64_t offset, unsigned size) {
  bql.assert_held();
  owner.catch_up();
  uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) {
    value |= uint64_t{(owner.*read)(offset + i)} << (i * 8);
  }
  RHEA_TRACE(kDevices, "pm_read id={} offset={} size={} value={:#x}", owner.id(), offset, size,
             value);
  return value;
}

void AcpiPm::Block::io_write(uint64_t offset, uint64_t value, unsigned size) {
  bql.assert_held();
  RHEA_TRACE(kDevices, "pm_write id={} offset={} size={} value={:#x}", owner.id(), offset, size,
             value);
  owner.catch_up();
  for (unsigned i = 0; i < size; ++i) {
    (owner.*write)(offset + i, static_cast<uint8_t>(value >> (i * 8)));
  }
  owner.update();  // once, so that the SCI does not flicker between the bytes
}

uint8_t AcpiPm::read_event_byte(uint64_t offset) {
  switch (EventReg{static_cast<uint8_t>(offset / 2)}) {
    case EventReg::kStatus:
      return byte_of(status_, offset);
    case EventReg::kEnable:
      return byte_of(enable_, offset);
    case EventReg::kControl:
      return byte_of(control_ | kSciEnable, offset);
  }
  return 0;  // past the last register: an access that straddles the end
}

void AcpiPm::write_event_byte(uint64_t offset, uint8_t value) {
  switch (EventReg{static_cast<uint8_t>(offset / 2)}) {
    case EventReg::kStatus:
      status_ = static_cast<uint16_t>(status_ & ~(in_word(value, offset) & kStatusBits));
      return;
    case EventReg::kEnable:
      enable_ = with_byte(enable_, offset, value) & kEnableBits;
      return;
    case EventReg::kControl:
      control_ = with_byte(control_, offset, value) & kControlBits;
      if ((in_word(value, offset) & kSleepEnable) != 0) sleep();
      return;
  }
}

uint8_t AcpiPm::read_gpe_byte(uint64_t offset) {
  switch (GpeReg{static_cast<uint8_t>(offset / 2)}) {
    case GpeReg::kStatus:
      return byte_of(gpe_status_, offset);
    case GpeReg::kEnable:
      return byte_of(gpe_enable_, offset);
  }
  return 0;
}

void AcpiPm::write_gpe_byte(uint64_t offset, uint8_t value) {
  switch (GpeReg{static_cast<uint8_t>(offset / 2)}) {
    case GpeReg::kStatus:
      gpe_status_ = static_cast<uint16_t>(gpe_status_ & ~in_word(value, offset));
      return;
    case GpeReg::kEnable:
      enable_gpes(with_byte(gpe_enable_, offset, value));
      return;
  }
}

void AcpiPm::enable_gpes(uint16_t enable) {
  const uint16_t before = std::exchange(gpe_enable_, enable);
  if ((enable & ~before & listened_gpe_) != 0 && gpe_listens_) gpe_listens_();
}

void AcpiPm::set_gpe_listener(unsigned bit, std::move_only_function<void()> listens) {
  listened_gpe_ = static_cast<uint16_t>(1U << bit);
  gpe_listens_ = std::move(listens);
}

/// SLP_EN was written; it reads 0. [ACPI-6.4 4.8.3.2.1]
void AcpiPm::sleep() {
  const auto type = static_cast<uint8_t>((control_ & kSleepTypeBits) >> kSleepTypeShift);
  if (type == kSleepTypeS5) {
    if (power_off_) power_off_();
    return;
  }
  // A state that the DSDT does not offer. A guest that enters it waits for WAK_STS, for ever if it
  // never came.
  errors().report(GuestError::kBadValue, 4, type);
  status_ |= kWake;
}

/// Sets TMR_STS if the timer's top bit has changed since the last look.
void AcpiPm::catch_up() {
  const uint64_t half_periods = timer_handler_.ticks() >> timer_handler_.top_bit();
  if (half_periods != std::exchange(seen_half_periods_, half_periods)) status_ |= kTimer;
}

/// Brings the SCI and the wake-up for the next carry of the timer up to date.
void AcpiPm::update() {
  catch_up();
  sci_.set((status_ & enable_) != 0 || (gpe_status_ & gpe_enable_) != 0);
  if ((enable_ & kTimer) != 0 && (status_ & kTimer) == 0) {
    wakeup_.arm_at(timer_handler_.moment_of((seen_half_periods_ + 1) << timer_handler_.top_bit()));
  } else {
    wakeup_.cancel();
  }
}

// --- Migration --------------------------------------------------------------------------------

AcpiPmState AcpiPm::state() {
  catch_up();
  return {.status = status_,
          .enable = enable_,
          .control = control_,
          .gpe_status = gpe_status_,
          .gpe_enable = gpe_enable_,
          .timer_ticks = timer_handler_.ticks()};
}

Result<void> AcpiPm::check_state(const AcpiPmState& state) const {
  TRY(check_bits("status", state.status, kStatusBits));
  TRY(check_bits("enable", state.enable, kEnableBits));
  TRY(check_bits("control", state.control, kControlBits));
  return check_at_most("timer_ticks", state.timer_ticks, kMaxTimerTicks);
}

// Enabling an event that was enabled before is no news: the listener is not called.
void AcpiPm::set_state(const AcpiPmState& state) {
  status_ = state.status;
  enable_ = state.enable;
  control_ = state.control;
  gpe_status_ = state.gpe_status;
  gpe_enable_ = state.gpe_enable;
  timer_handler_.go_on_from(state.timer_ticks);
  seen_half_periods_ = state.timer_ticks >> timer_handler_.top_bit();
  update();
}

}  // namespace rhea::devices
