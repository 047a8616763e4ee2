// -device: which driver, and its help. What its options mean is settled when the device is made.
#include "vmm/device_table.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

/// The driver of "DRIVER,help" or "DRIVER,?"; empty if that is not asked for.
std::string_view help_wanted_for(std::string_view value) {
  for (const std::string_view suffix : {",help", ",?"}) {
    if (value.ends_with(suffix)) return value.substr(0, value.size() - suffix.size());
  }
  return {};
}

Error no_such_driver(std::string_view driver) {
  return fail(ErrorKind::kInvalidArgument, "'{}' is not a valid device model name", driver);
}

}  // namespace

Result<void> on_device(Draft& draft, const Given& given) {
  if (given.value == "help" || given.value == "?") {
    draft.print = device_list_help();
    return ok();
  }
  if (const auto driver = help_wanted_for(given.value); !driver.empty()) {
    const DeviceRow* row = find_device_row(driver);
    if (row == nullptr) return no_such_driver(driver);
    draft.print = device_help(*row);
    return ok();
  }
  OptionReader reader(TRY(parse_options(given.value, {.implied_key = "driver"})));
  std::string driver = TRY(reader.take_required("driver"));
  const DeviceRow* row = find_device_row(driver);
  if (row == nullptr) return no_such_driver(driver);
  auto id = TRY(reader.take_identifier("id"));
  if (id && !draft.device_ids.insert(*id).second) {
    return fail(ErrorKind::kExists, "Duplicate device ID '{}'", *id);
  }
  if (row->made_by_board()) return add_isa_serial(draft, given, reader);
  draft.config.devices.push_back(
      {std::move(driver), std::move(id).value_or(""), reader.take_rest(), given.origin()});
  return ok();
}

}  // namespace rhea::vmm::cli
