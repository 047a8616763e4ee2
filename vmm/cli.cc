#include "vmm/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <set>

#include "util/log.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm {
namespace cli {

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

std::string Given::origin() const {
  return value.empty() ? fmt::format("-{}", name) : fmt::format("-{} {}", name, value);
}

void MergedOption::merge(const Given& given, OptionTree later) {
  options.merge(std::move(later));
  origin = given.origin();
}

Error at(std::string_view origin, Error error) { return std::move(error).context(origin); }

namespace {

const OptionRow* find_row(std::string_view name) {
  const auto rows = option_table();
  const auto row = std::ranges::find(rows, name, &OptionRow::name);
  return row == rows.end() ? nullptr : &*row;
}

/// QEMU's long options start with one '-' (two are accepted): rewrites them to "--name", which is
/// all that CLI11 can tell from a bundle of short ones. What follows an option that takes a value
/// is that value, whatever it looks like.
Result<std::vector<std::string>> normalise(std::span<const char* const> args) {
  std::vector<std::string> normal;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string_view arg = args[i];
    if (!arg.starts_with('-')) {
      return fail(ErrorKind::kInvalidArgument, "{}: not an option (disks are not given bare)", arg);
    }
    const std::string_view name = arg.substr(arg.starts_with("--") ? 2 : 1);
    const OptionRow* row = find_row(name);
    if (row == nullptr) return fail(ErrorKind::kInvalidArgument, "{}: invalid option", arg);
    normal.push_back(fmt::format("--{}", name));
    if (row->takes == Takes::kNothing) continue;
    if (++i == args.size()) {
      return fail(ErrorKind::kInvalidArgument, "{}: requires an argument", arg);
    }
    normal.emplace_back(args[i]);
  }
  return normal;
}

/// Lets CLI11 match arguments with options; returns the occurrences in their order.
std::vector<Given> recognise(std::vector<std::string> args) {
  CLI::App app;
  app.set_help_flag();
  std::map<const CLI::Option*, const OptionRow*> rows;
  for (const OptionRow& row : option_table()) {
    const std::string flag = fmt::format("--{}", row.name);
    CLI::Option* option = row.takes == Takes::kValue ? app.add_option(flag) : app.add_flag(flag);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    rows[option] = &row;
  }
  std::ranges::reverse(args);  // CLI11 takes a vector from its end
  app.parse(std::move(args));

  std::vector<Given> given;
  std::map<const CLI::Option*, size_t> seen;
  for (const CLI::Option* option : app.parse_order()) {
    const OptionRow& row = *rows.at(option);
    const size_t nth = seen[option]++;
    given.push_back({row.name, row.takes == Takes::kValue ? option->results().at(nth) : ""});
  }
  return given;
}

/// CLI11 reports by exception; none leaves this function.
Result<std::vector<Given>> recognise_checked(std::vector<std::string> args) {
  try {
    return recognise(std::move(args));
  } catch (const std::exception& e) {
    return fail(ErrorKind::kInvalidArgument, "command line: {}", e.what());
  }
}

Result<void> finish_boot(const Draft& draft) {
  if (draft.config.kernel) return ok();
  if (!draft.append_origin.empty()) {
    return at(draft.append_origin,
              fail(ErrorKind::kInvalidArgument, "-append only allowed with -kernel option"));
  }
  if (!draft.initrd_origin.empty()) {
    return at(draft.initrd_origin,
              fail(ErrorKind::kInvalidArgument, "-initrd only allowed with -kernel option"));
  }
  return ok();
}

Result<void> finish(Draft& draft) {
  std::string memory_backend;
  TRY(finish_machine(draft, memory_backend));
  TRY(finish_smp(draft));
  TRY(finish_memory(draft, memory_backend));
  TRY(finish_boot(draft));
  finish_drives(draft);
  return finish_consoles(draft);
}

Result<CliOutcome> parse(std::span<const char* const> args) {
  auto normal = TRY(normalise(args));
  const auto occurrences = TRY(recognise_checked(std::move(normal)));
  Draft draft;
  for (const Given& given : occurrences) {
    auto handled = find_row(given.name)->handler(draft, given);
    if (!handled) return at(given.origin(), std::move(handled).error());
    if (draft.print) return CliOutcome(PrintAndExit{*std::move(draft.print)});
  }
  TRY(finish(draft));
  return CliOutcome(std::move(draft.config));
}

/// The values in a message are the user's bytes.
Error printable(const Error& error) { return Error(error.kind(), one_line(error.message())); }

}  // namespace
}  // namespace cli

Result<CliOutcome> parse_command_line(std::span<const char* const> args) {
  auto outcome = cli::parse(args);
  if (!outcome) return cli::printable(outcome.error());
  return outcome;
}

Result<void> apply_logging(const VmConfig& config) {
  if (config.log_file) {
    auto opened = log_to_file(*config.log_file);
    if (!opened) return cli::printable(cli::at("-D " + *config.log_file, opened.error()));
  }
  if (config.log_spec) {
    auto applied = apply_log_spec(*config.log_spec);
    if (!applied) return cli::printable(cli::at("-d " + *config.log_spec, applied.error()));
  }
  return ok();
}

}  // namespace rhea::vmm
