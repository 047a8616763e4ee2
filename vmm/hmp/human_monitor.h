// HumanMonitor: the monitor's commands as people type them.
#pragma once

#include <string>
#include <string_view>

#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// Runs a line, and says what it prints. Whatever a command does it does by QMP commands, and what
/// it shows it makes from their answers: this is another way to say things, not another monitor. A
/// command is there if the QMP command that it stands on is.
///
/// Thread: main, service context, BQL held. Errors: are text, in QEMU's words.
class HumanMonitor {
 public:
  /// `commands` outlives the monitor.
  explicit HumanMonitor(const QmpCommandTable& commands) : commands_(commands) {}

  /// What `line` prints; each line of it ends in "\n".
  std::string run(std::string_view line) const;

  // For the commands.
  QmpResult ask(std::string_view command, const Json& arguments = Json::object()) const;
  bool can_ask(std::string_view command) const { return commands_.find(command) != nullptr; }

 private:
  const QmpCommandTable& commands_;
};

}  // namespace rhea::vmm
