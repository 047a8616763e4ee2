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
    "Ctrl-A C       go to the monitor (this console has none)\r\n"
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

size_t MuxChardev::can_receive() { return kHeldBytes - std::min(kHeldBytes, held_.size()); }

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
    held_.push_back(typed);
  }
}

void MuxChardev::command(char key) {
  switch (std::tolower(static_cast<unsigned char>(key))) {
    case kCtrlA:
      held_.push_back(std::byte{kCtrlA});
      break;
    case 'b':
      deliver();
      if (frontend() != nullptr) frontend()->event(devices::CharEvent::kBreak);
      break;
    case 'c':
      say("\r\nThere is no monitor on this console.\r\n");
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

void MuxChardev::deliver() {
  bql.assert_held();
  while (!held_.empty() && frontend() != nullptr) {
    const size_t n = std::min(held_.size(), frontend()->can_receive());
    if (n == 0) break;
    const auto end = held_.begin() + static_cast<ptrdiff_t>(n);
    const std::vector<std::byte> bytes(held_.begin(), end);
    held_.erase(held_.begin(), end);
    frontend()->receive(bytes);
  }
  inner_->accept_input();
}

void MuxChardev::event(devices::CharEvent event) {
  if (event != devices::CharEvent::kBreak) {
    set_peer_present(event == devices::CharEvent::kOpened);
  } else if (frontend() != nullptr) {
    frontend()->event(event);
  }
}

void MuxChardev::can_write() {
  if (frontend() != nullptr) frontend()->can_write();
}

}  // namespace rhea::vmm
