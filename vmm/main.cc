// The entry point: command line, background, machine. Everything else is in the library.
#include <fmt/core.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>

#include "vmm/cli.h"
#include "vmm/daemonize.h"
#include "vmm/pidfile.h"
#include "vmm/run_vm.h"

namespace rhea::vmm {
namespace {

int print_error(std::string_view message) {
  fmt::print(stderr, "rhea: {}\n", message);
  return 1;
}

/// Runs the machine in this process; `notifier` is for run_vm().
Result<VmEnd> run(const VmConfig& config, ReadyNotifier& notifier) {
  TRY(apply_logging(config));
  std::optional<Pidfile> pidfile;
  if (config.pidfile) {
    auto created = Pidfile::create(*config.pidfile);
    if (!created) {
      return std::move(created).error().context(fmt::format("-pidfile {}", *config.pidfile));
    }
    pidfile.emplace(*std::move(created));
  }
  return run_vm(config, notifier);
}

int run_reporting(const VmConfig& config, ReadyNotifier notifier) {
  const auto end = run(config, notifier);
  if (!end) return notifier.fail(end.error().message()) ? 1 : print_error(end.error().message());
  if (end->left_behind.empty()) return end->status;
  print_error(end->left_behind);
  std::_Exit(end->status);  // a thread that waits for a disk may not meet what exit() takes down
}

int start(const VmConfig& config) {
  if (!config.daemonize) return run_reporting(config, ReadyNotifier());
  auto role = daemonize();
  if (!role) return print_error(role.error().message());
  if (const auto* parent = std::get_if<ParentExit>(&*role)) {
    if (!parent->message.empty()) print_error(parent->message);
    return parent->status;
  }
  return run_reporting(config, std::get<ReadyNotifier>(*std::move(role)));
}

int main(std::span<const char* const> args) {
  std::signal(SIGPIPE, SIG_IGN);  // a peer that hangs up is an error of write(), not our end
  const auto outcome = parse_command_line(args);
  if (!outcome) return print_error(outcome.error().message());
  if (const auto* print = std::get_if<PrintAndExit>(&*outcome)) {
    fmt::print("{}", print->text);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  return start(std::get<VmConfig>(*outcome));
}

}  // namespace
}  // namespace rhea::vmm

int main(int argc, char** argv) {
  // A program may be started with no arguments at all, not even its name.
  const auto count = argc > 0 ? static_cast<size_t>(argc - 1) : 0;
  return rhea::vmm::main({argv + (argc > 0 ? 1 : 0), count});
}
