// HmpSession: the human monitor on one character device.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "devices/chardev.h"
#include "util/aio_context.h"
#include "vmm/hmp/human_monitor.h"
#include "vmm/hmp/line_editor.h"

namespace rhea::vmm {

/// A prompt, what is typed behind it, and what the commands print.
///
/// Whoever does not read is not read from: at most the output of one command waits, and the next is
/// served when that is gone. A command is served a turn, so that QMP's clients and the guest have
/// theirs.
///
/// Thread: main, service context, BQL held. Invariants: every client starts at a greeting and an
/// empty line.
class HmpSession final : public devices::CharFrontend {
 public:
  static constexpr std::string_view kPrompt = "(rhea) ";

  /// `monitor` and `backend` outlive the session. `greeting` is the line for a new client.
  HmpSession(AioContext& context, const HumanMonitor& monitor, devices::CharBackend& backend,
             std::string greeting);
  ~HmpSession() override;

  size_t can_receive() override;
  void receive(std::span<const std::byte> data) override;
  void event(devices::CharEvent event) override;
  void can_write() override;

 private:
  static constexpr size_t kInputBytes = 1024;

  void serve();
  void print(std::string_view text);
  void flush();

  const HumanMonitor& monitor_;
  devices::CharBackend& backend_;
  const std::string greeting_;
  LineEditor editor_;
  std::string input_, output_;
  bool has_client_ = false;
  bool backend_waits_ = false;  // it was told that there is no room, and awaits accept_input()
  Bh more_;
};

}  // namespace rhea::vmm
