// The tables of the human monitor: what may be typed, and what it does.
#pragma once

#include <expected>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/hmp/human_monitor.h"

namespace rhea::vmm::hmp {

enum class Kind : uint8_t {
  kWord,  ///< up to a blank, or in double quotes
  kRest,  ///< all that is left of the line
  kFlag,  ///< "-f", before the words
};

struct Parameter {
  std::string_view name;  ///< of a flag: its letter
  Kind kind = Kind::kWord;
  QmpPresence presence = QmpPresence::kRequired;
  std::string_view expected = "string";  ///< what the complaint calls it
};

/// What was typed for the parameters, by their names; a flag that is there is empty.
using Given = std::map<std::string, std::string, std::less<>>;
/// What is printed.
using Output = std::expected<std::string, QmpError>;

struct Row {
  std::string_view name, alias;
  std::string_view syntax, help;
  std::string_view needs;  ///< the QMP command without which the row is not there; may be empty
  std::vector<Parameter> parameters;
  Output (*run)(const HumanMonitor& monitor, const Given& given);

  /// "stop|s".
  std::string names() const;
  std::string help_line(std::string_view prefix) const;
};

/// In alphabetical order.
std::span<const Row> commands();
/// What "info" shows.
std::span<const Row> infos();

/// Null if there is none that the monitor has.
const Row* find_row(const HumanMonitor& monitor, std::span<const Row> rows, std::string_view name);
std::string help_of_all(const HumanMonitor& monitor, std::span<const Row> rows,
                        std::string_view prefix);
/// Takes the first word off `text`; none if nothing is left.
std::optional<std::string> take_word(std::string_view& text);
/// Runs a row with what was typed behind its name. `prefix` is "info " or nothing.
std::string run_row(const HumanMonitor& monitor, const Row& row, std::string_view prefix,
                    std::string_view text);

// info_devices.cc: what the tree of devices looks like
Output info_pci(const HumanMonitor& monitor, const Given& given);
Output info_qtree(const HumanMonitor& monitor, const Given& given);
Output info_qom_tree(const HumanMonitor& monitor, const Given& given);

// migration.cc
Output info_migrate(const HumanMonitor& monitor, const Given& given);
Output info_migrate_capabilities(const HumanMonitor& monitor, const Given& given);
Output info_migrate_parameters(const HumanMonitor& monitor, const Given& given);
Output migrate(const HumanMonitor& monitor, const Given& given);
Output migrate_incoming(const HumanMonitor& monitor, const Given& given);
Output migrate_continue(const HumanMonitor& monitor, const Given& given);
Output migrate_set_capability(const HumanMonitor& monitor, const Given& given);
Output migrate_set_parameter(const HumanMonitor& monitor, const Given& given);

}  // namespace rhea::vmm::hmp
