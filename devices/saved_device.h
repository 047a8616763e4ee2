// SavedDevice: a device whose state travels with a migrated guest.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/device.h"
#include "util/saved_state.h"

namespace rhea::devices {

/// Gives a device its saved form. State is a described struct (see saved_state.h) with the names
/// `kKind` and `kVersion`; the version goes up when a field changes its meaning, for a field that
/// comes or goes changes the schema.
///
/// A device writes three short functions. Values are what the guest can tell: no pointers, no host
/// time; deadlines and counters are relative to the machine's clock, whose origin is another one on
/// the other side.
template <class State, class Base = Device>
class SavedDevice : public Base {
 public:
  StateFormat state_format() const final {
    return {State::kKind, State::kVersion, state_schema<State>()};
  }
  std::vector<uint8_t> save() final REQUIRES(bql) { return encode_state(state()); }
  Result<std::move_only_function<void()>> prepare_load(std::span<const uint8_t> bytes) final
      REQUIRES(bql) {
    State loaded = TRY(decode_state<State>(this->id(), bytes));
    if (auto checked = check_state(loaded); !checked) {
      return std::move(checked).error().context(this->id());
    }
    return std::move_only_function<void()>([this, loaded = std::move(loaded)] {
      bql.assert_held();
      set_state(loaded);
    });
  }

 protected:
  using Base::Base;

  virtual State state() REQUIRES(bql) = 0;
  /// Whether the device could be in that state. Errors: see bad_state().
  virtual Result<void> check_state(const State& state) const REQUIRES(bql) = 0;
  /// Takes over a state that was checked: registers, wires and timers.
  virtual void set_state(const State& state) REQUIRES(bql) = 0;
};

/// A field that holds what it can not: "field 'status': 0x80, has no bits but 0x7f".
template <class... Args>
Error bad_state(std::string_view field, fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorKind::kCorrupt, "field '{}': {}", field,
              fmt::format(format, std::forward<Args>(args)...));
}

/// A field whose bits are all among `allowed`.
inline Result<void> check_bits(std::string_view field, uint64_t value, uint64_t allowed) {
  if ((value & ~allowed) == 0) return ok();
  return bad_state(field, "{:#x}, has no bits but {:#x}", value, allowed);
}

/// A field with a value of at most `max`.
inline Result<void> check_at_most(std::string_view field, uint64_t value, uint64_t max) {
  if (value <= max) return ok();
  return bad_state(field, "{}, at most {}", value, max);
}

}  // namespace rhea::devices
