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

}  // namespace rhea::devices
