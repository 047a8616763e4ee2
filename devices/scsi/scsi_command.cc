#include "devices/scsi/scsi_command.h"

#include <algorithm>
#include <utility>

#include "devices/scsi/scsi_reply.h"

namespace rhea::devices {
namespace {

constexpr uint8_t kServiceActionMask = 0x1f;

// REPORT SUPPORTED OPERATION CODES. [SPC-4]
constexpr uint8_t kWithTimeouts = 0x80;  // RCTD
constexpr uint8_t kReportingOptions = 0x07;
constexpr uint16_t kTimeoutsSize = 0x0a;

/// What the initiator wants to know. Both of the last are refused where the opcode's service
/// actions do not fit the question, but for kOneOrItsAction, which answers "not supported".
enum class Asked : uint8_t { kAll = 0, kOne = 1, kOneAction = 2, kOneOrItsAction = 3 };
enum class Support : uint8_t { kNot = 1, kAsInStandard = 3 };

/// Nothing is promised: 0 is "no indication".
void put_timeouts(ScsiReply& reply) {
  reply.put16(kTimeoutsSize);
  reply.put_zeros(kTimeoutsSize);
}

size_t size_of(const ScsiCommand& command) {
  const std::array<uint8_t, ScsiRequest::kCdbSize> cdb{std::to_underlying(command.opcode)};
  return ScsiCdb(cdb).size();
}

void put_all(const ScsiCdb& cdb, std::span<const ScsiCommand> table, const ScsiDisk& disk,
             ScsiSupported supported, ScsiReply& reply) {
  const bool timeouts = cdb.has(2, kWithTimeouts);
  reply.put32(0);
  for (const ScsiCommand& command : table) {
    if (!supported(disk, command)) continue;
    reply.put8(std::to_underlying(command.opcode));
    reply.put8(0);
    reply.put16(command.has_action() ? static_cast<uint16_t>(command.service_action) : 0);
    reply.put8(0);
    reply.put8((timeouts ? 2 : 0) | (command.has_action() ? 1 : 0));  // CTDP, SERVACTV
    reply.put16(size_of(command));
    if (timeouts) put_timeouts(reply);
  }
  reply.set32(0, reply.size() - 4);
}

void put_one(const ScsiCommand* command, bool timeouts, ScsiReply& reply) {
  const auto support = command != nullptr ? Support::kAsInStandard : Support::kNot;
  timeouts = timeouts && command != nullptr;
  reply.put8(0);
  reply.put8((timeouts ? 0x80 : 0) | std::to_underlying(support));
  const size_t size = command != nullptr ? size_of(*command) : 0;
  reply.put16(size);
  if (command == nullptr) return;
  reply.put8(std::to_underlying(command->opcode));
  const size_t action_at = reply.size();
  for (const uint8_t mask : std::span(command->usage).first(size - 1)) reply.put8(mask);
  if (command->has_action()) {
    reply.set8(action_at, command->usage[0] | static_cast<unsigned>(command->service_action));
  }
  if (timeouts) put_timeouts(reply);
}

}  // namespace

bool ScsiCommand::accepts(const ScsiCdb& cdb) const noexcept {
  for (size_t i = 0; i < cdb.size() - 1; ++i) {
    const uint8_t action = i == 0 && has_action() ? kServiceActionMask : 0;
    if (cdb.has(i + 1, static_cast<uint8_t>(~(usage[i] | action)))) return false;
  }
  return true;
}

std::optional<ScsiSense> report_opcodes(const ScsiCdb& cdb, std::span<const ScsiCommand> table,
                                        const ScsiDisk& disk, ScsiSupported supported,
                                        ScsiReply& reply) {
  const auto asked = static_cast<Asked>(cdb[2] & kReportingOptions);
  if (asked > Asked::kOneOrItsAction) return sense::kInvalidField;
  if (asked == Asked::kAll) {
    put_all(cdb, table, disk, supported, reply);
    return std::nullopt;
  }
  const auto same_opcode = [&](const ScsiCommand& command) {
    return std::to_underlying(command.opcode) == cdb[3] && supported(disk, command);
  };
  const auto first = std::ranges::find_if(table, same_opcode);
  if (first != table.end()) {
    if (asked == Asked::kOne && first->has_action()) return sense::kInvalidField;
    if (asked == Asked::kOneAction && !first->has_action()) return sense::kInvalidField;
  }
  const int action = first != table.end() && !first->has_action() && cdb.be(4, 2) == 0
                         ? ScsiCommand::kNoAction
                         : static_cast<int>(cdb.be(4, 2));
  const auto found = std::ranges::find_if(table, [&](const ScsiCommand& command) {
    return same_opcode(command) && (asked == Asked::kOne || command.service_action == action);
  });
  put_one(found != table.end() ? &*found : nullptr, cdb.has(2, kWithTimeouts), reply);
  return std::nullopt;
}

}  // namespace rhea::devices
