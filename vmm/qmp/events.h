// The events that a monitor may hear, and what each one says.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "vmm/qmp/command.h"

namespace rhea::vmm {

struct QmpEvent {
  std::string_view name;
  std::vector<QmpArgument> data;
};

/// All of them, in alphabetical order: what query-qmp-schema tells. QmpServer::publish() holds
/// everyone to it.
std::span<const QmpEvent> qmp_events();
/// Whether the event is there and `data` (or null) has what it must have, and nothing else.
bool is_declared(std::string_view event, const ReplyJson& data);

}  // namespace rhea::vmm
