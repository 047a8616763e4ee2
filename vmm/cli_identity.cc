// -name, -uuid, -d, -version, -help: what the guest is called, and what Rhea says about itself.
#include <algorithm>

#include "vmm/internal/cli.h"
#include "vmm/version.h"

namespace rhea::vmm::cli {
namespace {

constexpr std::string_view kLogHelp =
    "-d FOLDER=LEVEL[,...]; FOLDER alone means FOLDER=trace\n"
    "folders: util memory block devices migration vmm all\n"
    "levels:  trace debug info warn error off\n";

constexpr bool is_hex_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/// 8-4-4-4-12 hexadecimal digits.
bool is_uuid(std::string_view text) {
  constexpr std::string_view kForm = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  return std::ranges::equal(
      text, kForm, [](char c, char form) { return form == '-' ? c == '-' : is_hex_digit(c); });
}

}  // namespace

Result<void> on_name(Draft& draft, const Given& given) {
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = "guest"})));
  if (auto guest = TRY(reader.take_string("guest"))) draft.config.name = *std::move(guest);
  TRY(reader.take_bool("debug-threads"));  // every thread has a name anyway
  return reader.finish();
}

Result<void> on_uuid(Draft& draft, const Given& given) {
  if (!is_uuid(given.value)) {
    return fail(ErrorKind::kInvalidArgument, "failed to parse UUID string: wrong format");
  }
  std::string uuid = given.value;
  std::ranges::transform(uuid, uuid.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  draft.config.uuid = std::move(uuid);
  return ok();
}

Result<void> on_log(Draft& draft, const Given& given) {
  if (given.value == "help" || given.value == "?") {
    draft.print = kLogHelp;
    return ok();
  }
  draft.config.log_spec = given.value;
  return ok();
}

Result<void> on_version(Draft& draft, const Given&) {
  draft.print = fmt::format(
      "Rhea version {} (command line, QMP and machine after QEMU {}.{}.{})\n"
      "Licensed under the Apache License, Version 2.0\n",
      version(), kQemuMajor, kQemuMinor, kQemuMicro);
  return ok();
}

Result<void> on_help(Draft& draft, const Given&) {
  draft.print = help_text();
  return ok();
}

}  // namespace rhea::vmm::cli
