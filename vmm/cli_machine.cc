// -machine, -accel, -enable-kvm and -cpu.
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>

#include "util/parse.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

constexpr std::string_view kMachineHelp =
    "Supported machines are:\n"
    "pc                   PC with PCI and ACPI, without firmware (default)\n"
    "pc-i440fx-7.2        PC with PCI and ACPI, without firmware (alias of pc)\n";

constexpr std::string_view kAccelHelp =
    "Accelerators supported by Rhea:\n"
    "kvm\n"
    "qtest\n";

constexpr std::string_view kCpuHelp =
    "Available CPUs:\n"
    "x86 host                  the host's CPU, as KVM offers it (default)\n";

bool asks_help(std::string_view value) { return value == "help" || value == "?"; }

/// Machine switches that other front ends pass, which have one possible value here.
struct FixedSwitch {
  std::string_view key;
  std::string_view why;
};
constexpr std::array kOffSwitches{
    FixedSwitch{"usb", "there is no USB controller"},
    FixedSwitch{"dump-guest-core", "the guest's memory is not for core dumps"},
    FixedSwitch{"vmport", "there is no VMware port"},
    FixedSwitch{"graphics", "there is no display"},
    FixedSwitch{"hpet", "there is no HPET"},
    FixedSwitch{"smm", "there is no firmware to use SMM"},
};

Result<void> check_machine_type(std::string_view type) {
  if (type == "pc" || type == "pc-i440fx-7.2") return ok();
  if (type == "q35" || type.starts_with("pc-q35-") || type == "microvm" || type == "none") {
    return fail(ErrorKind::kUnsupported,
                "unsupported machine type '{}': only 'pc' is built (use -machine help to list "
                "supported machines)",
                type);
  }
  return fail(ErrorKind::kInvalidArgument,
              "unsupported machine type '{}' (use -machine help to list supported machines)", type);
}

/// One accelerator by name. Errors: unknown, or not one that Rhea has.
Result<Accelerator> accelerator_by_name(std::string_view name) {
  if (name == "kvm") return Accelerator::kKvm;
  if (name == "qtest") return Accelerator::kQtest;
  if (name == "tcg") {
    return fail(ErrorKind::kUnsupported,
                "invalid accelerator tcg: Rhea does not emulate CPUs, guests need kvm");
  }
  return fail(ErrorKind::kInvalidArgument, "invalid accelerator {}", name);
}

/// "kvm:tcg" asks for the first that is there; the first that Rhea has is taken.
Result<Accelerator> choose_accelerator(std::string_view list) {
  std::optional<Error> first_error;
  for (std::string_view rest = list;;) {
    const size_t colon = rest.find(':');
    auto choice = accelerator_by_name(rest.substr(0, colon));
    if (choice) return choice;
    if (!first_error) first_error = std::move(choice).error();
    if (colon == rest.npos) return *std::move(first_error);
    rest.remove_prefix(colon + 1);
  }
}

Result<void> take_off_switches(OptionReader& reader) {
  for (const FixedSwitch& row : kOffSwitches) {
    if (TRY(reader.take_bool(row.key)).value_or(false)) {
      return fail(ErrorKind::kUnsupported, "'{}' can only be off: {}", row.key, row.why);
    }
  }
  return ok();
}

Result<void> settle_machine(Draft& draft, std::string& memory_backend) {
  OptionReader reader(draft.machine.options);
  if (const auto type = TRY(reader.take_string("type"))) TRY(check_machine_type(*type));
  if (const auto accel = TRY(reader.take_string("accel"))) {
    if (!draft.accelerators.empty()) {
      return fail(ErrorKind::kInvalidArgument,
                  "The -accel and \"-machine accel=\" options are incompatible");
    }
    draft.config.accelerator = TRY(choose_accelerator(*accel));
  }
  memory_backend = TRY(reader.take_string("memory-backend")).value_or("");
  constexpr uint64_t kDay = 86'400;
  if (const auto seconds = TRY(reader.take_uint("x-unplug-timeout", 1, kDay))) {
    draft.config.unplug_timeout = std::chrono::seconds(*seconds);
  }
  TRY(take_off_switches(reader));
  if (const auto unused = reader.first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property 'pc-machine.{}' not found", *unused);
  }
  return ok();
}

/// What a KVM accelerator is made with, the first of several. How many entries a ring may have
/// beyond what is checked here is the host's to say.
Result<void> take_kvm_options(Draft& draft, OptionReader& reader) {
  constexpr uint64_t kMostEntries = 65'536;  // fixed in KVM
  const uint64_t entries = TRY(reader.take_uint("dirty-ring-size", 0, kMostEntries)).value_or(0);
  if (entries != 0 && !std::has_single_bit(entries)) {
    return fail(ErrorKind::kInvalidArgument, "dirty-ring-size must be a power of two");
  }
  if (std::ranges::find(draft.accelerators, "kvm") == draft.accelerators.end()) {
    draft.config.dirty_ring_entries = static_cast<uint32_t>(entries);
  }
  return ok();
}

/// Several -accel are tried in order.
Result<void> settle_accelerator(Draft& draft) {
  if (draft.accelerators.empty()) return ok();
  std::string list;
  for (const std::string& name : draft.accelerators) {
    if (!list.empty()) list += ':';
    list += name;
  }
  draft.config.accelerator = TRY(choose_accelerator(list));
  return ok();
}

}  // namespace

Result<void> on_machine(Draft& draft, const Given& given) {
  if (asks_help(given.value)) {
    draft.print = kMachineHelp;
    return ok();
  }
  draft.machine.merge(given, TRY(parse_options(given.value, {.implied_key = "type"})));
  return ok();
}

Result<void> on_accel(Draft& draft, const Given& given) {
  if (asks_help(given.value)) {
    draft.print = kAccelHelp;
    return ok();
  }
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = "accel"})));
  std::string name = TRY(reader.take_required("accel"));
  if (name == "kvm") TRY(take_kvm_options(draft, reader));
  if (const auto unused = reader.first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property '{}-accel.{}' not found", name, *unused);
  }
  draft.accelerators.push_back(std::move(name));
  draft.accel_origin = given.origin();
  return ok();
}

Result<void> on_enable_kvm(Draft& draft, const Given& given) {
  OptionTree kvm;
  kvm.set("accel", OptionTree::string("kvm"));
  draft.machine.merge(given, std::move(kvm));
  return ok();
}

Result<void> on_cpu(Draft& draft, const Given& given) {
  if (asks_help(given.value)) {
    draft.print = kCpuHelp;
    return ok();
  }
  const std::string_view value = given.value;
  const size_t comma = value.find(',');
  if (value.substr(0, comma) != "host") {
    return fail(ErrorKind::kUnsupported, "unable to find CPU model '{}': only 'host' exists",
                value.substr(0, comma));
  }
  if (comma == value.npos) return ok();
  OptionReader reader(TRY(parse_keyval(value.substr(comma + 1))));
  if (!TRY(reader.take_bool("migratable")).value_or(true)) {
    return fail(ErrorKind::kUnsupported, "'migratable' can only be on");
  }
  if (const auto unused = reader.first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property 'host-x86_64-cpu.{}' not found", *unused);
  }
  return ok();
}

Result<void> finish_machine(Draft& draft, std::string& memory_backend) {
  auto machine = settle_machine(draft, memory_backend);
  if (!machine) return at(draft.machine.origin, std::move(machine).error());
  auto accelerator = settle_accelerator(draft);
  if (!accelerator) return at(draft.accel_origin, std::move(accelerator).error());
  return ok();
}

}  // namespace rhea::vmm::cli
