#include "vmm/chardev/mux_chardev.h"

#include <algorithm>
#include <cctype>
#include <csignal>
#include <utility>
#include <vector>

#include "util/bql.h"

namespace rhea::vmm {

namespace {

constexpr char kCtrlA = 0x01;

constexpr std::string_view kHelp =
    "\r\n"
    "Ctrl-A H       list these keys\r\n"
    "Ctrl-A X       quit\r\n"
    "Ctrl-A B       send a break\r\n"
    "Ctrl-A C       go to the monitor, and back\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A\r\n";

}  // namespace

MuxChardev::MuxChardev(std::unique_ptr<Chardev> inner, AioContext& context, ChardevHooks hooks)
    : Chardev(inner->label()),
      inner_(std::move(inner)),
      hooks_(std::move(hooks)),
      deliver_(context, [this] { deliver(); }) {
  inner_->attach(this);
}

MuxChardev::~MuxChardev() { inner_->attach(nullptr); }

size_t MuxChardev::write(std::span<const std::byte> data) { return inner_->write(data); }

void MuxChardev::accept_input() { deliver_.schedule(); }

void MuxChardev::frontend_changed() { deliver_.schedule(); }

size_t MuxChardev::can_receive() {
  return kHeldBytes - std::min(kHeldBytes, held_in_front().size());
}

void MuxChardev::receive(std::span<const std::byte> data) {
  for (const std::byte typed : data) take(typed);
  deliver();
}

void MuxChardev::take(std::byte typed) {
  const auto c = static_cast<char>(typed);
  if (std::exchange(escaped_, false)) {
    command(c);
  } else if (c == kCtrlA) {
    escaped_ = true;
  } else {
    held_in_front().push_back(typed);
  }
}

void MuxChardev::command(char key) {
  switch (std::tolower(static_cast<unsigned char>(key))) {
    case kCtrlA:
      held_in_front().push_back(std::byte{kCtrlA});
      break;
    case 'b':
      deliver();
      if (frontend() != nullptr) frontend()->event(devices::CharEvent::kBreak);
      break;
    case 'c':
      switch_front();
      break;
    case 'h':
    case '?':
      say(kHelp);
      break;
    case 'x':
      say("\r\nrhea: terminated by Ctrl-A X\r\n");
      if (hooks_.quit) {
        hooks_.quit();
      } else {
        std::raise(SIGTERM);
      }
      break;
    default:
      break;  // no key of ours, and not meant for the guest
  }
}

/// To the person, not from the guest: what the terminal does not take now is not worth keeping.
void MuxChardev::say(std::string_view text) { inner_->write(std::as_bytes(std::span(text))); }

void MuxChardev::switch_front() {
  if (monitor_.user == nullptr) return say("\r\nThere is no monitor on this console.\r\n");
  if (monitor_in_front_ && frontend() == nullptr) return;  // there is nobody to go back to
  say("\r\n");
  monitor_in_front_ = !monitor_in_front_;
  deliver();
}

void MuxChardev::MonitorEnd::attach(devices::CharFrontend* frontend) {
  user = frontend;
  mux.held_for_monitor_.clear();
  mux.monitor_has_client_ = false;
  mux.monitor_in_front_ = user != nullptr && mux.frontend() == nullptr;
  mux.tell_monitor();
}

/// Whether its client is there. A client that goes to the console is gone when all that it typed
/// before was served; one whose terminal goes, at once.
void MuxChardev::tell_monitor() {
  const bool wanted = monitor_in_front_ && peer_present();
  if (monitor_.user == nullptr || wanted == monitor_has_client_) return;
  const bool served = held_for_monitor_.empty() && monitor_.user->can_receive() > 0;
  if (!wanted && peer_present() && !served) return;  // it calls accept_input() when it is
  if (!wanted) held_for_monitor_.clear();
  monitor_has_client_ = wanted;
  monitor_.user->event(wanted ? devices::CharEvent::kOpened : devices::CharEvent::kClosed);
}

void MuxChardev::deliver() {
  bql.assert_held();
  deliver_to(frontend(), held_);
  if (monitor_has_client_) deliver_to(monitor_.user, held_for_monitor_);
  tell_monitor();
  inner_->accept_input();
}

void MuxChardev::deliver_to(devices::CharFrontend* user, Held& held) {
  while (!held.empty() && user != nullptr) {
    const size_t n = std::min(held.size(), user->can_receive());
    if (n == 0) break;
    const auto end = held.begin() + static_cast<ptrdiff_t>(n);
    const std::vector<std::byte> bytes(held.begin(), end);
    held.erase(held.begin(), end);
    user->receive(bytes);
  }
}

void MuxChardev::event(devices::CharEvent event) {
  if (event == devices::CharEvent::kBreak) {
    if (frontend() != nullptr) frontend()->event(event);
    return;
  }
  set_peer_present(event == devices::CharEvent::kOpened);
  tell_monitor();
}

void MuxChardev::can_write() {
  if (frontend() != nullptr) frontend()->can_write();
  if (monitor_.user != nullptr) monitor_.user->can_write();
}

}  // namespace rhea::vmm
