#include "vmm/chardev/chardev.h"

#include "util/bql.h"

namespace rhea::vmm {

void Chardev::attach(devices::CharFrontend* frontend) {
  bql.assert_held();
  RHEA_CHECK(frontend_ == nullptr || frontend == nullptr, "chardev {} has a frontend", label_);
  frontend_ = frontend;
  if (frontend_ != nullptr && peer_present_) frontend_->event(devices::CharEvent::kOpened);
  frontend_changed();
}

void Chardev::set_peer_present(bool present) {
  if (std::exchange(peer_present_, present) == present || frontend_ == nullptr) return;
  frontend_->event(present ? devices::CharEvent::kOpened : devices::CharEvent::kClosed);
}

}  // namespace rhea::vmm
