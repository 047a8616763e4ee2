// connect_to(), receive_from() and Listener: from an address to a Channel.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "migration/address.h"
#include "migration/cancel.h"
#include "migration/channel.h"
#include "util/error.h"
#include "util/fd.h"

namespace rhea::migration {

/// Gives away the descriptor that a client has passed under this name ("getfd").
using TakeFd = std::function<Result<Fd>(std::string_view name)>;

/// The outgoing side: connects, opens or starts what `address` says. Waits for the peer of a
/// socket, and ends with kCancelled at once when the switch is thrown; a host's name is looked up
/// first, and that can not be cancelled. `take_fd` may be empty where `address` is no fd:NAME.
/// Errors: "Failed to connect to '/tmp/x.sock': No such file or directory".
Result<std::unique_ptr<Channel>> connect_to(const Address& address, std::shared_ptr<Cancel> cancel,
                                            const TakeFd& take_fd);

/// The incoming side of fd:, exec: and file:, which are not listened on.
Result<std::unique_ptr<Channel>> receive_from(const Address& address,
                                              std::shared_ptr<Cancel> cancel,
                                              const TakeFd& take_fd);

/// A socket that waits for connections, for tcp: and unix: addresses.
///
/// Thread: one at a time; main watches fd(). Owns: the socket, and the path of a unix: address,
/// which goes with it.
class Listener {
 public:
  static Result<std::unique_ptr<Listener>> create(const Address& address);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// Readable when a connection waits.
  int fd() const noexcept { return fd_.get(); }
  /// Where it can be reached: port 0 has become a real one.
  const Address& address() const noexcept { return address_; }
  /// The connection that waits, or null: whoever knocked may have gone.
  Result<std::unique_ptr<Channel>> accept(std::shared_ptr<Cancel> cancel);

 private:
  Listener(Fd fd, Address address) : fd_(std::move(fd)), address_(std::move(address)) {}

  Fd fd_;
  const Address address_;
};

}  // namespace rhea::migration
