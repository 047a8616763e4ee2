// Options that other front ends pass and that change nothing, because what they ask for is so
// anyway. Each value is still checked: a request that is not met is refused, never dropped.
#include <algorithm>
#include <array>

#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

/// One key of one option, and the values that are true of this machine ("|" between them).
struct HarmlessRow {
  std::string_view option;
  std::string_view implied_key;
  std::string_view key;
  std::string_view values;
};

constexpr std::array kHarmless{
    HarmlessRow{"overcommit", "", "mem-lock", "off"},
    HarmlessRow{"overcommit", "", "cpu-pm", "off"},
    HarmlessRow{"rtc", "", "base", "utc"},
    HarmlessRow{"rtc", "", "clock", "host"},
    HarmlessRow{"rtc", "", "driftfix", "none|slew"},
    HarmlessRow{"boot", "", "strict", "on|off"},
    HarmlessRow{"boot", "", "menu", "off"},
    HarmlessRow{"msg", "", "timestamp", "on|off"},
    HarmlessRow{"msg", "", "guest-name", "off"},
    HarmlessRow{"sandbox", "enable", "enable", "off"},
    HarmlessRow{"display", "type", "type", "none"},
    HarmlessRow{"audio", "driver", "driver", "none"},
    HarmlessRow{"audiodev", "driver", "driver", "none"},
    HarmlessRow{"audiodev", "driver", "id", "*"},
    HarmlessRow{"vga", "type", "type", "none"},
    HarmlessRow{"net", "type", "type", "none"},
    HarmlessRow{"nic", "type", "type", "none"},
    HarmlessRow{"parallel", "type", "type", "none"},
};

/// -global DRIVER.PROPERTY=VALUE, the same way.
struct GlobalRow {
  std::string_view driver, property, value;
};
constexpr std::array kGlobals{
    GlobalRow{"kvm-pit", "lost_tick_policy", "delay"},
    GlobalRow{"PIIX4_PM", "disable_s3", "1"},
    GlobalRow{"PIIX4_PM", "disable_s4", "1"},
};

bool allows(std::string_view values, std::string_view value) {
  if (values == "*") return true;
  for (std::string_view rest = values;;) {
    const size_t bar = rest.find('|');
    if (rest.substr(0, bar) == value) return true;
    if (bar == rest.npos) return false;
    rest.remove_prefix(bar + 1);
  }
}

/// Options of QEMU's that people try first, and why they do not work here.
struct RefusedRow {
  std::string_view option;
  std::string_view reason;
};
constexpr std::array kRefused{
    RefusedRow{"no-acpi", "the machine has no other way to find its devices and to power off"},
    RefusedRow{"usb", "there is no USB controller"},
    RefusedRow{"hda", "there is no IDE controller: -drive file=FILE,format=raw is a virtio disk"},
    RefusedRow{"cdrom", "there is no IDE controller: use -drive file=FILE,media=cdrom"},
    RefusedRow{"netdev", "there are no network devices"},
    RefusedRow{"bios", "guests are booted by -kernel, without firmware"},
    RefusedRow{"vnc", "there is no display"},
};

/// yes, true and y mean on, as everywhere.
std::string_view canonical(std::string_view value) {
  if (value == "yes" || value == "true" || value == "y") return "on";
  if (value == "no" || value == "false" || value == "n") return "off";
  return value;
}

}  // namespace

Result<void> on_harmless(Draft&, const Given& given) {
  const auto first = std::ranges::find(kHarmless, given.name, &HarmlessRow::option);
  RHEA_CHECK(first != kHarmless.end(), "no row for -{}", given.name);
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = first->implied_key})));
  for (const HarmlessRow& row : kHarmless) {
    if (row.option != given.name) continue;
    const auto value = TRY(reader.take_string(row.key));
    if (value && !allows(row.values, canonical(*value))) {
      return fail(ErrorKind::kUnsupported, "Parameter '{}' does not accept value '{}', only '{}'",
                  row.key, *value, row.values);
    }
  }
  return reader.finish();
}

Result<void> on_global(Draft&, const Given& given) {
  const std::string_view value = given.value;
  const size_t dot = value.find('.');
  const size_t equals = value.find('=');
  if (dot == value.npos || equals == value.npos || dot > equals) {
    return fail(ErrorKind::kInvalidArgument, "expected DRIVER.PROPERTY=VALUE");
  }
  const bool known = std::ranges::any_of(kGlobals, [&](const GlobalRow& row) {
    return row.driver == value.substr(0, dot) &&
           row.property == value.substr(dot + 1, equals - dot - 1) &&
           row.value == value.substr(equals + 1);
  });
  if (known) return ok();
  return fail(ErrorKind::kUnsupported, "there is no such device property to set");
}

Result<void> on_refused(Draft&, const Given& given) {
  const auto row = std::ranges::find(kRefused, given.name, &RefusedRow::option);
  RHEA_CHECK(row != kRefused.end(), "no row for -{}", given.name);
  return fail(ErrorKind::kUnsupported, "not supported: {}", row->reason);
}

}  // namespace rhea::vmm::cli
