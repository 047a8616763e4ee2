// query-qmp-schema: what the monitor understands, as QAPI's introspection tells it.
#pragma once

#include <span>

#include "vmm/qmp/command.h"
#include "vmm/qmp/events.h"

namespace rhea::vmm {

/// [{"name", "meta-type", ...}]: commands, then events, then the types that they use, made from the
/// tables that the server serves by. As in QEMU, types other than the built-in ones have numbers
/// for names, and what is alike is one type; 0 is the object without members.
///
/// A command declares what it takes, not what it returns, so `ret-type` is "any".
ReplyJson qmp_schema(const QmpCommandTable& commands, std::span<const QmpEvent> events);

}  // namespace rhea::vmm
