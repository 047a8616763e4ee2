// Port92: "system control port A", with the fast A20 gate and the fast reset.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "devices/saved_device.h"
#include "memory/io_handler.h"

namespace rhea::devices {

struct Port92State {
  static constexpr std::string_view kKind = "port92";
  static constexpr uint32_t kVersion = 1;
  uint8_t value = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("value", s.value);
  }
};

/// Bit 1 is the A20 gate (remembered; the address line is never masked), bit 0 resets when it goes
/// from 0 to 1. The other bits read 0. [PS2-SYS, System control port A]
/// Thread: BQL.
class Port92 final : public SavedDevice<Port92State>, public memory::IoHandler {
 public:
  static constexpr uint8_t kReset = 0x01;
  static constexpr uint8_t kA20 = 0x02;
  static constexpr memory::IoAccess kAccess{
      .min_size = 1, .max_size = 4, .impl_min = 1, .impl_max = 1, .unaligned = true};

  Port92(std::string id, std::move_only_function<void()> request_reset)
      : SavedDevice(std::move(id)),
        request_reset_(std::move(request_reset)),
        io_(this->id(), 1, *this, kAccess) {}

  memory::MemoryRegion& io() noexcept { return io_; }

  // The gate is open: there is no firmware that would have to open it.
  void reset() override REQUIRES(bql) { value_ = kA20; }

  uint64_t io_read(uint64_t, unsigned) override {
    bql.assert_held();
    return value_;
  }
  void io_write(uint64_t, uint64_t value, unsigned) override {
    bql.assert_held();
    const auto next = static_cast<uint8_t>(value & (kReset | kA20));
    const bool rises = (next & ~value_ & kReset) != 0;
    value_ = next;
    if (rises && request_reset_) request_reset_();
  }

 private:
  Result<void> do_realize() override REQUIRES(bql) {
    own(io_);
    return ok();
  }
  void do_unrealize() override REQUIRES(bql) { request_reset_ = nullptr; }

  Port92State state() override REQUIRES(bql) { return {.value = value_}; }
  Result<void> check_state(const Port92State& state) const override REQUIRES(bql) {
    return check_bits("value", state.value, kReset | kA20);
  }
  void set_state(const Port92State& state) override REQUIRES(bql) { value_ = state.value; }

  std::move_only_function<void()> request_reset_ GUARDED_BY(bql);
  memory::MemoryRegion io_;
  uint8_t value_ GUARDED_BY(bql) = kA20;
};

}  // namespace rhea::devices
