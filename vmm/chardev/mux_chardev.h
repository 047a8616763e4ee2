// MuxChardev: the Ctrl-A keys of a console that shares a terminal with its machine.
#pragma once

#include <deque>
#include <memory>
#include <string_view>

#include "vmm/chardev/chardev.h"

namespace rhea::vmm {

/// Stands between a terminal and a frontend and keeps Ctrl-A for itself: X quits, H lists the keys,
/// B sends a break, Ctrl-A sends itself. What is typed waits here for the frontend, so the keys
/// work also when a guest does not read; only behind kHeldBytes of unread input they have to wait.
///
/// Thread: as Chardev.
class MuxChardev final : public Chardev, private devices::CharFrontend {
 public:
  static constexpr size_t kHeldBytes = 4096;

  MuxChardev(std::unique_ptr<Chardev> inner, AioContext& context, ChardevHooks hooks);
  ~MuxChardev() override;

  size_t write(std::span<const std::byte> data) override;
  void accept_input() override;
  std::string description() const override { return "mux"; }

 protected:
  void frontend_changed() override;

 private:
  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void event(devices::CharEvent event) override;
  void can_write() override;

  void take(std::byte typed);
  void command(char key);
  void say(std::string_view text);
  void deliver();

  const std::unique_ptr<Chardev> inner_;
  const ChardevHooks hooks_;
  bool escaped_ = false;  // the last byte was Ctrl-A
  std::deque<std::byte> held_;
  Bh deliver_;
};

}  // namespace rhea::vmm
