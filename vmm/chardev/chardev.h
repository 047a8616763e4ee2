// Chardev: what all character devices of the command line have in common, and how they are made.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "devices/chardev.h"
#include "util/aio_context.h"
#include "vmm/config.h"

namespace rhea::vmm {

/// A character device with its name.
///
/// Thread: write(), accept_input() and description() under the BQL, from any thread (a vCPU writes
/// to its serial port); all else on main. Frontends are called on main only, from the service
/// context or from attach(), and never from within write() or accept_input().
class Chardev : public devices::CharBackend {
 public:
  explicit Chardev(std::string label) : label_(std::move(label)) {}

  /// Its id on the command line.
  const std::string& label() const noexcept { return label_; }
  /// Whether someone is connected on the inside.
  bool frontend_open() const noexcept { return frontend_ != nullptr; }

  void attach(devices::CharFrontend* frontend) override;
  /// Where a monitor for people is attached: beside the frontend, if there is room for both.
  virtual devices::CharBackend& monitor_end() { return *this; }

 protected:
  devices::CharFrontend* frontend() const noexcept { return frontend_; }
  bool peer_present() const noexcept { return peer_present_; }
  /// Notes that the peer came or went, and tells the frontend.
  void set_peer_present(bool present);
  /// A frontend was attached or went.
  virtual void frontend_changed() {}

 private:
  const std::string label_;
  devices::CharFrontend* frontend_ = nullptr;
  bool peer_present_ = false;
};

/// What a character device may ask of the program around it.
struct ChardevHooks {
  /// Ctrl-A X: ends the machine. Called on main, in the service context, with the BQL held.
  std::function<void()> quit;
};

/// Makes the character device that `config` describes, its sockets listening and its files open.
/// A server with `wait` blocks until a peer came. SIGPIPE is ignored from here on: a reader that
/// went away is an error of write(), not the end of the machine.
///
/// `context` is main's service context. Errors: whatever the host refuses, with the path or
/// address; stdio that is taken already.
Result<std::unique_ptr<Chardev>> make_chardev(const ChardevConfig& config, AioContext& context,
                                              ChardevHooks hooks = {});

}  // namespace rhea::vmm
