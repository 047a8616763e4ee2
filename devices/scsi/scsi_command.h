// ScsiCommand: one row of a unit's table of commands.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "devices/scsi/scsi_cdb.h"
#include "util/coroutine.h"

namespace rhea::devices {

class ScsiDisk;
class ScsiReply;

/// What a command asks of its unit before it is looked at any further.
enum class ScsiNeeds : uint8_t {
  kNothing = 0,
  kMedium = 1,     ///< there is one, and it is not out on the tray
  kWritable = 2,   ///< a medium that may be changed
  kDiscard = 4,    ///< a unit that gives space back: others do not have the command
  kRemovable = 8,  ///< a unit with a removable medium: others do not have the command
};
constexpr ScsiNeeds operator|(ScsiNeeds a, ScsiNeeds b) {
  return static_cast<ScsiNeeds>(static_cast<uint8_t>(a) | static_cast<uint8_t>(b));
}
constexpr bool has(ScsiNeeds all, ScsiNeeds one) {
  return (static_cast<uint8_t>(all) & static_cast<uint8_t>(one)) != 0;
}

/// A command that a unit knows. REPORT SUPPORTED OPERATION CODES tells of these rows.
struct ScsiCommand {
  using Handler = ScsiOutcome (*)(ScsiDisk& disk, Co& co, ScsiRequest& request);
  static constexpr int kNoAction = -1;

  ScsiOpcode opcode;
  int service_action;  ///< in the low five bits of byte 1
  const char* name;    ///< for traces
  ScsiNeeds needs;
  /// The bits that mean something from byte 1 on, without the service action; a command that sets
  /// another is refused.
  std::array<uint8_t, 15> usage;
  Handler handler;  ///< null for what the bus answers by itself

  bool has_action() const noexcept { return service_action != kNoAction; }
  /// Whether `cdb` sets no bit but those of `usage`.
  bool accepts(const ScsiCdb& cdb) const noexcept;
};

/// The bits that mean something in the CDBs that several units know; `flags` are those of byte 1.
namespace usage {
using Usage = std::array<uint8_t, 15>;
constexpr Usage list6(uint8_t flags, uint8_t page) { return {flags, page, page, 0xff}; }
constexpr Usage range10(uint8_t flags) { return {flags, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff}; }
constexpr Usage range12(uint8_t flags) {
  return {flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f};
}
constexpr Usage range16(uint8_t flags) {
  return {flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f};
}
inline constexpr Usage kRange6{0x1f, 0xff, 0xff, 0xff};
inline constexpr Usage kModeSelect10{0x10, 0, 0, 0, 0, 0, 0xff, 0xff};
inline constexpr Usage kModeSense10{0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff};
inline constexpr Usage kUnmap{0, 0, 0, 0, 0, 0x1f, 0xff, 0xff};
inline constexpr Usage kCapacity16{0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
inline constexpr Usage kLbaStatus{0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                  0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
inline constexpr Usage kReportLuns{0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
inline constexpr Usage kReportOpcodes{0, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
}  // namespace usage

/// Answers REPORT SUPPORTED OPERATION CODES [SPC-4] of the commands in `table` for which
/// `supported` holds; the reason if it is refused.
using ScsiSupported = bool (*)(const ScsiDisk& disk, const ScsiCommand& command);
std::optional<ScsiSense> report_opcodes(const ScsiCdb& cdb, std::span<const ScsiCommand> table,
                                        const ScsiDisk& disk, ScsiSupported supported,
                                        ScsiReply& reply);

/// A member function of a unit as a row's handler.
template <auto Method>
ScsiOutcome call(ScsiDisk& disk, Co& co, ScsiRequest& request) {
  const auto with = []<class Unit>(ScsiOutcome (Unit::*)(Co&, ScsiRequest&), ScsiDisk& unit) {
    return static_cast<Unit*>(&unit);
  };
  return (with(Method, disk)->*Method)(co, request);
}

}  // namespace rhea::devices
