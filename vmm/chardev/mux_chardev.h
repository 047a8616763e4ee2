// MuxChardev: the Ctrl-A keys of a console that shares a terminal with its machine.
#pragma once

#include <deque>
#include <memory>
#include <string_view>

#include "vmm/chardev/chardev.h"

namespace rhea::vmm {

/// Stands between a terminal and its users and keeps Ctrl-A for itself: X quits, H lists the keys,
/// B sends a break, C goes to the monitor and back, Ctrl-A sends itself. What is typed is for the
/// frontend or for the monitor, whoever is in front; both may print. It waits here, so the keys
/// work also when a guest does not read; only behind kHeldBytes of unread input they have to wait.
///
/// The monitor has a client while it is in front: it greets each time. Without a frontend it always
/// is.
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
  devices::CharBackend& monitor_end() override { return monitor_; }

 protected:
  void frontend_changed() override;

 private:
  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void event(devices::CharEvent event) override;
  void can_write() override;

  /// One user's end, and what was typed for it.
  struct MonitorEnd final : devices::CharBackend {
    explicit MonitorEnd(MuxChardev& mux_chardev) : mux(mux_chardev) {}
    void attach(devices::CharFrontend* frontend) override;
    size_t write(std::span<const std::byte> data) override { return mux.write(data); }
    void accept_input() override { mux.accept_input(); }
    std::string description() const override { return mux.description(); }
    MuxChardev& mux;
    devices::CharFrontend* user = nullptr;
  };
  using Held = std::deque<std::byte>;

  void take(std::byte typed);
  void switch_front();
  void tell_monitor();
  Held& held_in_front() { return monitor_in_front_ ? held_for_monitor_ : held_; }
  static void deliver_to(devices::CharFrontend* user, Held& held);
  void command(char key);
  void say(std::string_view text);
  void deliver();

  const std::unique_ptr<Chardev> inner_;
  const ChardevHooks hooks_;
  bool escaped_ = false;  // the last byte was Ctrl-A
  MonitorEnd monitor_{*this};
  bool monitor_in_front_ = false;
  bool monitor_has_client_ = false;
  Held held_, held_for_monitor_;
  Bh deliver_;
};

}  // namespace rhea::vmm
