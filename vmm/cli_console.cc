// Who uses the chardevs: serial ports, the debug console, monitors and the qtest server.
#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

constexpr size_t kSerialPorts = 2;  // 0x3f8 and 0x2f8

Result<void> check_ports_left(const Draft& draft) {
  if (draft.serials.size() + draft.isa_serials.size() < kSerialPorts) return ok();
  return fail(ErrorKind::kInvalidArgument, "Max. supported number of ISA serial ports is {}",
              kSerialPorts);
}

/// What the first serial port is if nobody says: the terminal under -nographic, else a port that
/// nothing is connected to.
Result<void> add_default_serial(Draft& draft) {
  const bool said = !draft.serials.empty() || !draft.isa_serials.empty();
  if (said || !draft.defaults) return ok();
  if (draft.nographic && draft.config.daemonize) {
    return fail(ErrorKind::kInvalidArgument, "-nographic cannot be used with -daemonize");
  }
  auto added = on_serial(draft, {"serial", draft.nographic ? "mon:stdio" : "null"});
  if (!added) {
    return at(draft.nographic ? "-nographic" : "-serial null", std::move(added).error());
  }
  return ok();
}

using Role = ChardevUse::Role;
using Mode = MonitorConfig::Mode;
using Port = std::optional<std::string>;
using Ports = std::array<Port, kSerialPorts>;

/// A port that exists is always connected to something, if only to null.
Result<void> place_isa_serial(Draft& draft, const IsaSerial& device, Ports& ports) {
  const auto free = std::ranges::find_if_not(ports, &Port::has_value);
  const size_t index = device.index.value_or(static_cast<unsigned>(free - ports.begin()));
  if (index >= kSerialPorts || ports[index]) {
    return fail(ErrorKind::kBusy, "serial port {} is in use", index);
  }
  std::string chardev = device.chardev;
  if (chardev.empty()) {
    chardev = fmt::format("isa-serial{}", index);
    ChardevConfig null;
    null.id = chardev;
    null.wait = false;
    TRY(add_chardev(draft, std::move(null), device.origin));
  }
  ports[index] = std::move(chardev);
  return ok();
}

Result<void> place_isa_serials(Draft& draft, Ports& ports, bool (*which)(const IsaSerial&)) {
  for (const IsaSerial& device : draft.isa_serials) {
    if (!which(device)) continue;
    auto placed = place_isa_serial(draft, device, ports);
    if (!placed) return at(device.origin, std::move(placed).error());
  }
  return ok();
}

/// -serial fills the ports in order; -device isa-serial those it names, or the first that is free.
Result<void> settle_ports(Draft& draft) {
  Ports ports;
  for (size_t i = 0; i < draft.serials.size(); ++i) ports[i] = draft.serials[i];
  // A device without an index must not take the place of a later one that names it.
  TRY(place_isa_serials(draft, ports, [](const IsaSerial& d) { return d.index.has_value(); }));
  TRY(place_isa_serials(draft, ports, [](const IsaSerial& d) { return !d.index.has_value(); }));
  for (auto& port : ports) draft.config.serials.push_back(port.value_or(""));
  while (!draft.config.serials.empty() && draft.config.serials.back().empty()) {
    draft.config.serials.pop_back();
  }
  return ok();
}

/// Every chardev that is named exists, and has one user, or with mux=on one of each role.
Result<void> check_chardev_uses(const Draft& draft) {
  std::set<std::pair<std::string_view, Role>> used;
  for (const ChardevUse& use : draft.chardev_uses) {
    const auto chardev = std::ranges::find(draft.config.chardevs, use.id, &ChardevConfig::id);
    if (chardev == draft.config.chardevs.end()) {
      return at(use.origin, fail(ErrorKind::kNotFound, "{}", use.missing));
    }
    if (!used.insert({use.id, chardev->mux ? use.role : Role::kDevice}).second) {
      return at(use.origin, fail(ErrorKind::kBusy, "Device '{}' is in use", use.id));
    }
  }
  return ok();
}

/// The chardev of a serial port or the like. "mon:" brings a monitor along, behind Ctrl-A C.
Result<std::string> add_console(Draft& draft, const Given& given, std::string id) {
  std::string chardev = TRY(add_compat_chardev(draft, given, std::move(id)));
  if (!given.value.starts_with("mon:")) return chardev;
  draft.chardev_uses.push_back({chardev, given.origin(), "", Role::kHumanMonitor});
  draft.console_monitors.push_back({chardev, Mode::kReadline});
  return chardev;
}

/// The next id for the chardev of a -qmp or -monitor.
std::string monitor_id(const Draft& draft) {
  return fmt::format("compat_monitor{}", draft.config.monitors.size());
}

Error given_twice() { return fail(ErrorKind::kInvalidArgument, "can be given only once"); }

}  // namespace

Result<void> on_serial(Draft& draft, const Given& given) {
  TRY(check_ports_left(draft));
  if (given.value == "none") {
    draft.serials.emplace_back();
    return ok();
  }
  std::string id = fmt::format("serial{}", draft.serials.size());
  draft.serials.push_back(TRY(add_console(draft, given, std::move(id))));
  return ok();
}

Result<void> on_debugcon(Draft& draft, const Given& given) {
  if (draft.config.debug_console) return given_twice();
  draft.config.debug_console = TRY(add_console(draft, given, "debugcon"));
  return ok();
}

Result<void> on_qmp(Draft& draft, const Given& given) {
  draft.config.monitors.push_back({TRY(add_compat_chardev(draft, given, monitor_id(draft)))});
  return ok();
}

Result<void> on_mon(Draft& draft, const Given& given) {
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = "chardev"})));
  const std::string chardev = TRY(reader.take_required("chardev"));
  TRY(reader.take_identifier("id"));
  constexpr std::array<std::string_view, 2> kModes{"readline", "control"};
  const bool control = TRY(reader.take_choice("mode", kModes)).value_or(0) == 1;
  if (TRY(reader.take_bool("pretty")).value_or(false)) {
    return fail(ErrorKind::kUnsupported, "'pretty' can only be off");
  }
  TRY(reader.finish());
  draft.chardev_uses.push_back({chardev, given.origin(),
                                fmt::format("chardev \"{}\" not found", chardev),
                                control ? Role::kDevice : Role::kHumanMonitor});
  draft.config.monitors.push_back({chardev, control ? Mode::kControl : Mode::kReadline});
  return ok();
}

Result<void> on_monitor(Draft& draft, const Given& given) {
  if (given.value == "none") return ok();
  std::string chardev =
      TRY(add_compat_chardev(draft, given, monitor_id(draft), Role::kHumanMonitor));
  draft.config.monitors.push_back({std::move(chardev), Mode::kReadline});
  return ok();
}

Result<void> on_qtest(Draft& draft, const Given& given) {
  if (draft.config.qtest_chardev) return given_twice();
  draft.config.qtest_chardev = TRY(add_compat_chardev(draft, given, "qtest"));
  return ok();
}

Result<void> add_isa_serial(Draft& draft, const Given& given, OptionReader& reader) {
  IsaSerial device{.chardev = {}, .index = {}, .origin = given.origin()};
  if (const auto index = TRY(reader.take_uint("index"))) {
    if (*index >= kSerialPorts) {
      return fail(ErrorKind::kInvalidArgument, "Max. supported number of ISA serial ports is {}",
                  kSerialPorts);
    }
    device.index = static_cast<unsigned>(*index);
  }
  device.chardev = TRY(reader.take_string("chardev")).value_or("");
  if (const auto unused = reader.first_unused()) {
    return fail(ErrorKind::kInvalidArgument, "Property 'isa-serial.{}' not found", *unused);
  }
  TRY(check_ports_left(draft));
  if (!device.chardev.empty()) {
    draft.chardev_uses.push_back(
        {device.chardev, device.origin,
         fmt::format("Property 'isa-serial.chardev' can't find value '{}'", device.chardev)});
  }
  draft.isa_serials.push_back(std::move(device));
  return ok();
}

Result<void> finish_consoles(Draft& draft) {
  TRY(add_default_serial(draft));
  TRY(settle_ports(draft));
  TRY(check_chardev_uses(draft));
  std::ranges::move(draft.console_monitors, std::back_inserter(draft.config.monitors));
  if (draft.config.daemonize && !draft.stdio_origin.empty()) {
    return at(draft.stdio_origin,
              fail(ErrorKind::kInvalidArgument, "cannot use stdio with -daemonize"));
  }
  return ok();
}

}  // namespace rhea::vmm::cli
