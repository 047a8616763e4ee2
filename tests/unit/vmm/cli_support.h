// Command lines as one string, for tables in tests.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/cli.h"

namespace rhea::test {

/// Splits at blanks; 'single quotes' hold an argument together, empty ones give an empty argument.
inline std::vector<std::string> split_command(std::string_view line) {
  std::vector<std::string> args;
  for (size_t i = 0; i < line.size();) {
    if (line[i] == ' ') {
      ++i;
    } else if (line[i] == '\'') {
      const size_t end = line.find('\'', i + 1);
      args.emplace_back(line.substr(i + 1, end - i - 1));
      i = end + 1;
    } else {
      const size_t end = std::min(line.find(' ', i), line.size());
      args.emplace_back(line.substr(i, end - i));
      i = end;
    }
  }
  return args;
}

inline Result<vmm::CliOutcome> parse_line(std::string_view line) {
  const auto args = split_command(line);
  std::vector<const char*> argv;
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  return vmm::parse_command_line(argv);
}

/// The configuration of a good line; a bad one throws, and so fails the test.
inline vmm::VmConfig config_of(std::string_view line) {
  auto outcome = parse_line(line);
  if (!outcome) throw std::runtime_error(outcome.error().message());
  return std::get<vmm::VmConfig>(*std::move(outcome));
}

/// The error's text, or "no error".
inline std::string error_of(std::string_view line) {
  const auto outcome = parse_line(line);
  return outcome ? "no error" : outcome.error().message();
}

struct BadLine {
  const char* line;
  const char* message;
};

/// Each line is refused with its message.
template <size_t N>
void check_messages(const BadLine (&rows)[N]) {
  for (const BadLine& row : rows) {
    INFO(row.line);
    CHECK(error_of(row.line) == row.message);
  }
}

/// The text that a line prints, or "nothing is printed".
inline std::string printed_by(std::string_view line) {
  auto outcome = parse_line(line);
  if (!outcome) return outcome.error().message();
  const auto* print = std::get_if<vmm::PrintAndExit>(&*outcome);
  return print == nullptr ? "nothing is printed" : print->text;
}

}  // namespace rhea::test
