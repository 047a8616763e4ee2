#include "devices/debug_console.h"

#include <utility>

namespace rhea::devices {

DebugConsole::DebugConsole(std::string id)
    : SavedDevice(std::move(id)), io_(this->id(), 1, *this, kAccess) {}

Result<void> DebugConsole::do_realize() {
  own(io_);
  if (backend_ != nullptr) backend_->attach(this);
  return ok();
}

void DebugConsole::do_unrealize() {
  if (backend_ != nullptr) std::exchange(backend_, nullptr)->attach(nullptr);
  pending_.clear();
}

uint64_t DebugConsole::io_read(uint64_t, unsigned) { return kMagic; }

void DebugConsole::io_write(uint64_t, uint64_t value, unsigned) {
  bql.assert_held();
  const std::byte byte{static_cast<uint8_t>(value)};
  if (backend_ == nullptr) return;
  if (pending_.empty() && backend_->write({&byte, 1}) == 1) return;
  if (pending_.size() == kMaxPendingBytes) {
    return errors().report(GuestError::kOverrun, 0, value);
  }
  pending_.push_back(byte);
}

DebugConsoleState DebugConsole::state() {
  DebugConsoleState state;
  for (const std::byte byte : pending_) state.pending.push_back(std::to_integer<uint8_t>(byte));
  return state;
}

void DebugConsole::set_state(const DebugConsoleState& state) {
  pending_.clear();
  if (backend_ == nullptr) return;  // nobody to print it to
  for (const uint8_t byte : state.pending) pending_.push_back(std::byte{byte});
}

void DebugConsole::can_write() {
  bql.assert_held();
  while (backend_ != nullptr && !pending_.empty() && backend_->write({&pending_.front(), 1}) == 1)
    pending_.pop_front();
}

}  // namespace rhea::devices
