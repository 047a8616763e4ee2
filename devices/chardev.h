// Character devices: the byte stream between a serial port (or a monitor) and the outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "util/fd.h"

namespace rhea::devices {

enum class CharEvent : uint8_t {
  kOpened,  ///< a peer is there
  kClosed,  ///< the peer is gone
  kBreak,   ///< the peer sent a break
};

/// The emulated end: 16550, debug console, monitor.
/// Thread: main, service context, BQL held.
class CharFrontend {
 public:
  /// More descriptors than these are not passed with one message.
  static constexpr size_t kMostFds = 16;

  virtual ~CharFrontend() = default;
  /// How many bytes receive() would take now. 0 stops the backend reading until accept_input().
  virtual size_t can_receive() = 0;
  virtual void receive(std::span<const std::byte> data) = 0;
  /// The peer passed descriptors with the byte that receive() gets next. Who has no use for them
  /// closes them, as here.
  virtual void receive_fds(std::vector<Fd>) {}
  virtual void event(CharEvent) {}
  /// The backend has room again after write() took less than it was given.
  virtual void can_write() {}
};

/// The outside end: stdio, file, socket, pty, null.
/// Thread: BQL. write() never blocks: bytes not taken are the caller's to offer again at
/// can_write().
class CharBackend {
 public:
  virtual ~CharBackend() = default;
  /// Connects one frontend, or none with null. A peer that is there already shows as kOpened.
  virtual void attach(CharFrontend* frontend) = 0;
  /// Takes as many of `data` as it has room for, and says how many. A backend without a peer takes
  /// and drops everything: a guest never stalls on an absent reader.
  virtual size_t write(std::span<const std::byte> data) = 0;
  /// The frontend can take input again.
  virtual void accept_input() = 0;
  /// What it is, in QEMU's words, for query-chardev: "unix:/path,server=on", "pty:/dev/pts/0".
  virtual std::string description() const = 0;
};

}  // namespace rhea::devices
