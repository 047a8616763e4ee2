// QmpSession: one monitor, and the client that talks to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/chardev.h"
#include "util/aio_context.h"
#include "vmm/named_fds.h"
#include "vmm/qmp/command.h"
#include "vmm/qmp/json_framer.h"

namespace rhea::vmm {

/// The bytes a session may hold and the work it may do, so that no client costs the guest more.
struct QmpLimits {
  size_t input_bytes = 4096;        ///< taken from the client and not looked at yet
  size_t commands_per_turn = 8;     ///< then the other clients and the guest have a go
  size_t output_bytes = 64 << 10;   ///< not taken by the client: above it, no command is served
  size_t event_bytes = 1024 << 10;  ///< not taken by the client: above it, events are left out
};

/// Speaks QMP over one character device: greeting, negotiation, commands, events. Each client that
/// comes starts from the greeting; whatever the one before left behind is gone.
///
/// A client that does not read is not read from: its answers stay below `output_bytes` plus one
/// answer. Events keep coming though, so above `event_bytes` they are dropped and counted, and once
/// the client reads again it is told with the event RHEA_EVENTS_DROPPED {"count": N}, in the place
/// of what is missing: it knows that it has to query. An answer is never dropped.
///
/// Descriptors that the client passes wait from the first byte of their message on, so a command
/// finds those that came with any of its bytes; unless others came with a later one, which replace
/// them, or a getfd before it took them. Nothing is read ahead of a command that is not served yet,
/// so those of a later command do not come in between.
///
/// Thread: main, service context, BQL held.
/// Invariants: an event is written when it happens and an answer when its command returns, so
/// events precede the answer of the command that caused them.
/// Errors: whatever a client sends is answered as QEMU does; nothing a client does ends the
/// session.
class QmpSession final : public devices::CharFrontend {
 public:
  /// `commands` and `backend` outlive the session. `greeting` is the line for a new client.
  QmpSession(AioContext& context, const QmpCommandTable& commands, devices::CharBackend& backend,
             std::string greeting, const QmpLimits& limits);
  ~QmpSession() override;

  /// Sends an event, a complete line, to a client that has negotiated.
  void send_event(std::string_view line);

  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void receive_fds(std::vector<Fd> fds) override;
  void event(devices::CharEvent event) override;
  void can_write() override;

 private:
  enum class Phase : uint8_t { kNoClient, kNegotiation, kCommands };

  void start();
  void serve();
  bool may_serve() const;
  size_t input_room() const;
  void handle(const JsonFramer::Frame& frame);
  QmpResult dispatch(const Json& request);
  QmpResult negotiate(const Json& arguments);
  void reply(const QmpResult& result, const Json* id);
  void send(std::string_view text);
  void flush();
  void report_dropped_events();

  const QmpCommandTable& commands_;
  devices::CharBackend& backend_;
  const std::string greeting_;
  const QmpLimits limits_;

  Phase phase_ = Phase::kNoClient;
  JsonFramer framer_;
  NamedFds fds_;
  std::string input_;
  std::string output_;
  bool serving_ = false;  // what a turn writes goes out in one piece
  size_t dropped_events_ = 0;
  bool backend_waits_ = false;  // it was told that there is no room, and awaits accept_input()
  Bh more_;
};

/// The line of an event: timestamp first, CR LF last. `data` null: the event has none.
std::string qmp_event_line(std::string_view name, const ReplyJson& data);

}  // namespace rhea::vmm
