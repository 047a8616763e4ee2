// ResetPortCf9: the chipset's reset control register, port 0xcf9.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct ResetPortCf9State {
  static constexpr std::string_view kKind = "cf9";
  static constexpr uint32_t kVersion = 1;
  uint8_t value = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("value", s.value);
  }
};

/// Bit 1 chooses a hard reset, bit 2 resets when it goes from 0 to 1; both kinds reset the whole
/// machine here. The port lies inside the dword of PCI's configuration address, whose region
/// forwards byte accesses to it (see PciHost), so it has no region of its own.
/// [PIIX3, Reset control register]
/// Thread: BQL.
class ResetPortCf9 final : public SavedDevice<ResetPortCf9State>, public memory::IoHandler {
 public:
  static constexpr uint8_t kHard = 0x02;
  static constexpr uint8_t kReset = 0x04;

  ResetPortCf9(std::string id, std::move_only_function<void()> request_reset)
      : SavedDevice(std::move(id)), request_reset_(std::move(request_reset)) {}

  void reset() override REQUIRES(bql) { value_ = 0; }

  uint64_t io_read(uint64_t, unsigned) override {
    bql.assert_held();
    return value_;
  }
  void io_write(uint64_t, uint64_t value, unsigned) override {
    bql.assert_held();
    const auto next = static_cast<uint8_t>(value & (kHard | kReset));
    const bool rises = (next & ~value_ & kReset) != 0;
    value_ = next;
    if (rises && request_reset_) request_reset_();
  }

 private:
  void do_unrealize() override REQUIRES(bql) { request_reset_ = nullptr; }

  ResetPortCf9State state() override REQUIRES(bql) { return {.value = value_}; }
  Result<void> check_state(const ResetPortCf9State& state) const override REQUIRES(bql) {
    return check_bits("value", state.value, kHard | kReset);
  }
  void set_state(const ResetPortCf9State& state) override REQUIRES(bql) { value_ = state.value; }

  std::move_only_function<void()> request_reset_ GUARDED_BY(bql);
  uint8_t value_ GUARDED_BY(bql) = 0;
};

}  // namespace rhea::devices
