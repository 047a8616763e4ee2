#include "devices/device.h"

#include "util/check.h"

namespace rhea::devices {

Device::~Device() {
  RHEA_CHECK(state_ != State::kRealized, "{} is destroyed while it is realized", id_);
}

Result<void> Device::realize() {
  RHEA_CHECK(state_ == State::kCreated, "{} is realized twice", id_);
  TRY(do_realize());
  state_ = State::kRealized;
  reset();
  return ok();
}

void Device::unrealize() {
  RHEA_CHECK(state_ == State::kRealized, "{} is not realized", id_);
  do_unrealize();
  state_ = State::kUnrealized;
}

Result<std::move_only_function<void()>> Device::prepare_load(std::span<const uint8_t> bytes) {
  if (!bytes.empty()) return fail(ErrorKind::kCorrupt, "{}: has no state", id_);
  return std::move_only_function<void()>([] {});
}

Result<void> Device::load(std::string_view kind, uint32_t version, std::span<const uint8_t> bytes) {
  const StateFormat ours = state_format();
  if (kind != ours.kind || version != ours.version) {
    return fail(ErrorKind::kUnsupported,
                "{}: the state is of '{}' version {}, expected '{}' version {}", id_, kind, version,
                ours.kind, ours.version);
  }
  std::move_only_function<void()> apply = TRY(prepare_load(bytes));
  apply();
  return ok();
}

}  // namespace rhea::devices
