// SocketChardev: a unix or TCP socket, as server or as client.
#pragma once

#include <memory>
#include <string>

#include "util/timer.h"
#include "vmm/chardev/socket_address.h"
#include "vmm/chardev/stream_chardev.h"

namespace rhea::vmm {

/// One peer at a time. A server takes the next one when the one before has gone; until then it
/// waits in the listen queue. A peer that hung up with input of it still unread counts as gone as
/// soon as another waits; one that will only read on gets the output that waits for it. A client
/// connects when it is made, and not again. Thread: as Chardev.
class SocketChardev final : public StreamChardev {
 public:
  static Result<std::unique_ptr<SocketChardev>> create(const ChardevConfig& config,
                                                       AioContext& context);
  /// "unix:PATH,server=on", "tcp:HOST:PORT <-> PEER:PORT", with "disconnected:" before it while
  /// nobody is there.
  std::string description() const override;

 protected:
  void input_ended() override;
  void output_ended() override;

 private:
  SocketChardev(const ChardevConfig& config, AioContext& context);
  Result<void> open();
  Result<void> open_listener();
  Result<void> open_client();
  Result<void> wait_for_peer();
  Result<void> take_peer(Fd peer);
  void listen_again();
  void somebody_connects();
  bool peer_hung_up() const;

  const ChardevConfig config_;
  SocketFile file_;
  Fd listener_;
  FdWatch listener_watch_;
  Timer retry_;  // looks again at a client that can not be served yet
};

}  // namespace rhea::vmm
