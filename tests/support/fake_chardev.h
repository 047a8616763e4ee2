// FakeChardev: the outside end of a serial port, with a test in the place of the peer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "devices/chardev.h"

namespace rhea::test {

/// Records what the guest sends, and takes no more than `room` bytes of it.
class FakeChardev final : public devices::CharBackend {
 public:
  static constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

  void attach(devices::CharFrontend* frontend) override { frontend_ = frontend; }
  size_t write(std::span<const std::byte> data) override {
    const size_t taken = std::min(data.size(), room_);
    for (const std::byte b : data.first(taken)) sent_.push_back(static_cast<char>(b));
    if (room_ != kUnlimited) room_ -= taken;
    return taken;
  }
  void accept_input() override { ++invitations_; }
  std::string description() const override { return "fake"; }

  /// How many more bytes the peer takes; telling the frontend is the caller's.
  void set_room(size_t bytes) { room_ = bytes; }
  /// The peer reads on, and the frontend hears of it.
  void make_room(size_t bytes) {
    room_ = bytes;
    frontend_->can_write();
  }
  /// Hands `text` to the frontend, as much as it says it takes; returns how much.
  size_t type(std::string_view text) {
    size_t done = 0;
    while (done < text.size()) {
      const size_t n = std::min(frontend_->can_receive(), text.size() - done);
      if (n == 0) break;
      frontend_->receive(std::as_bytes(std::span(text.substr(done, n))));
      done += n;
    }
    return done;
  }
  /// Hands over `text` without asking.
  void push(std::string_view text) { frontend_->receive(std::as_bytes(std::span(text))); }
  void event(devices::CharEvent event) { frontend_->event(event); }

  const std::string& sent() const { return sent_; }
  std::string take_sent() { return std::exchange(sent_, {}); }
  unsigned invitations() const { return invitations_; }
  devices::CharFrontend* frontend() const { return frontend_; }

 private:
  devices::CharFrontend* frontend_ = nullptr;
  std::string sent_;
  size_t room_ = kUnlimited;
  unsigned invitations_ = 0;
};

}  // namespace rhea::test
