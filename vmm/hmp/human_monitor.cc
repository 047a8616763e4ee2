#include "vmm/hmp/human_monitor.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "vmm/hmp/rows.h"

namespace rhea::vmm {
namespace hmp {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\t'; }

void skip_blanks(std::string_view& text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
}

/// A word in double quotes; a quote that does not end takes the rest.
std::string take_quoted(std::string_view& text) {
  std::string word;
  text.remove_prefix(1);
  while (!text.empty() && text.front() != '"') {
    if (text.front() == '\\' && text.size() > 1) text.remove_prefix(1);
    word += text.front();
    text.remove_prefix(1);
  }
  if (!text.empty()) text.remove_prefix(1);
  return word;
}

/// What was typed for each parameter, or the complaint.
std::expected<Given, std::string> parse_parameters(const Row& row, std::string_view text) {
  Given given;
  for (const Parameter& parameter : row.parameters) {
    skip_blanks(text);
    if (parameter.kind == Kind::kFlag) {
      std::string_view behind = text;
      const auto word = take_word(behind);
      if (word && word->starts_with('-') && std::string_view(*word).substr(1) == parameter.name) {
        given[std::string(parameter.name)] = "";
        text = behind;
      }
      continue;
    }
    if (text.starts_with('-') && parameter.kind == Kind::kWord) {
      return std::unexpected(fmt::format("unsupported option {}", *take_word(text)));
    }
    auto value = parameter.kind == Kind::kRest
                     ? std::optional(std::string(std::exchange(text, std::string_view())))
                     : take_word(text);
    if (value && !value->empty()) {
      given[std::string(parameter.name)] = *std::move(value);
    } else if (parameter.presence == QmpPresence::kRequired) {
      return std::unexpected(fmt::format("{} expected", parameter.expected));
    }
  }
  skip_blanks(text);
  if (!text.empty()) return std::unexpected("extraneous characters at the end of line");
  return given;
}

bool is_there(const HumanMonitor& monitor, const Row& row) {
  return row.needs.empty() || monitor.can_ask(row.needs);
}

}  // namespace

std::optional<std::string> take_word(std::string_view& text) {
  skip_blanks(text);
  if (text.empty()) return std::nullopt;
  if (text.front() == '"') return take_quoted(text);
  const auto end = std::ranges::find_if(text, is_blank);
  std::string word(text.begin(), end);
  text.remove_prefix(word.size());
  return word;
}

std::string Row::names() const {
  return alias.empty() ? std::string(name) : fmt::format("{}|{}", name, alias);
}

std::string Row::help_line(std::string_view prefix) const {
  return fmt::format("{}{} {} -- {}\n", prefix, names(), syntax, help);
}

const Row* find_row(const HumanMonitor& monitor, std::span<const Row> rows, std::string_view name) {
  const auto at = std::ranges::find_if(rows, [&](const Row& row) {
    return row.name == name || (!row.alias.empty() && row.alias == name);
  });
  return at != rows.end() && is_there(monitor, *at) ? &*at : nullptr;
}

std::string help_of_all(const HumanMonitor& monitor, std::span<const Row> rows,
                        std::string_view prefix) {
  std::string text;
  for (const Row& row : rows) {
    if (is_there(monitor, row)) text += row.help_line(prefix);
  }
  return text;
}

std::string run_row(const HumanMonitor& monitor, const Row& row, std::string_view prefix,
                    std::string_view text) {
  const auto given = parse_parameters(row, text);
  if (!given.has_value()) {
    return fmt::format("{}: {}\nTry \"help {}{}\" for more information\n", row.names(),
                       given.error(), prefix, row.name);
  }
  const Output output = row.run(monitor, *given);
  return output.has_value() ? *output : fmt::format("Error: {}\n", output.error().description);
}

}  // namespace hmp

std::string HumanMonitor::run(std::string_view line) const {
  const auto name = hmp::take_word(line);
  if (!name) return "";
  const hmp::Row* row = hmp::find_row(*this, hmp::commands(), *name);
  if (row == nullptr) return fmt::format("unknown command: '{}'\n", *name);
  return hmp::run_row(*this, *row, "", line);
}

QmpResult HumanMonitor::ask(std::string_view command, const Json& arguments) const {
  const QmpCommand* found = commands_.find(command);
  if (found == nullptr) {
    return QmpError{QmpErrorClass::kCommandNotFound,
                    fmt::format("The command {} has not been found", command)};
  }
  return found->run(arguments);
}

}  // namespace rhea::vmm
