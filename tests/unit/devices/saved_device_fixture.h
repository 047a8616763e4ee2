// What the tests of saved devices share.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "devices/saved_device.h"

namespace rhea::test {

/// Hands `from`'s state to `to`. Errors: `to` refuses it.
inline Result<void> hand_over(devices::Device& from, devices::Device& to) REQUIRES(bql) {
  const std::vector<uint8_t> bytes = from.save();
  return to.load(from.state_format().kind, from.state_format().version, bytes);
}

/// What `device` says to a state; empty if it takes it. A state that it refuses changes nothing.
template <class State>
std::string refusal(devices::Device& device, const State& state) REQUIRES(bql) {
  const std::vector<uint8_t> before = device.save();
  const auto loaded = device.load(State::kKind, State::kVersion, encode_state(state));
  if (loaded) return "";
  RHEA_CHECK(device.save() == before, "{} changed", device.id());
  return loaded.error().message();
}

/// The state that `device` has.
template <class State>
State state_of(devices::Device& device) REQUIRES(bql) {
  return MUST(decode_state<State>("saved", device.save()));
}

}  // namespace rhea::test
