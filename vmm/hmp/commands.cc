// What the human monitor can do: each row says it in QMP.
#include <array>
#include <optional>
#include <utility>

#include "util/options.h"
#include "util/parse.h"
#include "vmm/device_table.h"
#include "vmm/hmp/rows.h"
#include "vmm/qmp/json_framer.h"
#include "vmm/qom.h"

namespace rhea::vmm::hmp {
namespace {

constexpr auto kOptional = QmpPresence::kOptional;

/// Commands that went well say nothing.
Output quietly(QmpResult result) {
  if (!result.has_value()) return std::unexpected(std::move(result).error());
  return "";
}

template <const char* Command>
Output plain(const HumanMonitor& monitor, const Given&) {
  return quietly(monitor.ask(Command));
}
constexpr char kStop[] = "stop", kCont[] = "cont", kQuit[] = "quit", kReset[] = "system_reset",
               kPowerdown[] = "system_powerdown", kMigrateCancel[] = "migrate_cancel";

/// JSON, within the limits that QMP's clients have, or else a text.
Json value_json(const std::string& text) {
  JsonFramer framer;
  std::optional<JsonFramer::Frame> frame;
  const std::string whole = text + '\n';
  const bool ends_there = framer.feed(whole, frame) + 1 >= whole.size();
  if (ends_there && frame && frame->has_value()) {
    if (const auto json = parse_json(**frame)) return *json;
  }
  return text;
}

/// An option list as the arguments of a QMP command. `type_of` says what a member is; what it does
/// not know is a number if it looks like one.
template <class F>
std::expected<Json, QmpError> arguments_of(std::string_view text, std::string_view implied_key,
                                           F&& type_of) {
  const auto options = parse_options(text, {.implied_key = implied_key});
  if (!options.has_value())
    return std::unexpected(QmpError{.description = options.error().message()});
  Json arguments = Json::object();
  for (size_t i = 0; i < options->keys().size(); ++i) {
    const std::string& key = options->keys()[i];
    arguments[key] = option_json(type_of(key, *options), options->values()[i]);
  }
  return arguments;
}

/// "addr" is written as a text in QMP too: 05.0.
std::string_view device_property_type(const std::string& key, const OptionTree& options) {
  const OptionTree* driver = options.find("driver");
  const DeviceRow* row = driver != nullptr ? find_device_row(driver->text()) : nullptr;
  if (row == nullptr || key == "addr" || key == "driver" || key == "id") return "str";
  for (const DeviceProperty& property : properties_of(*row)) {
    if (property.name == key) return property.type;
  }
  return "str";
}

Output device_add(const HumanMonitor& monitor, const Given& given) {
  const auto text = given.find("device");
  const auto arguments =
      arguments_of(text != given.end() ? text->second : "", "driver", device_property_type);
  if (!arguments.has_value()) return std::unexpected(arguments.error());
  return quietly(monitor.ask("device_add", *arguments));
}

Output object_add(const HumanMonitor& monitor, const Given& given) {
  const auto arguments =
      arguments_of(given.at("object"), "qom-type", [](const std::string& key, const OptionTree&) {
        return std::string_view(key == "id" || key == "qom-type" ? "str" : "any");
      });
  if (!arguments.has_value()) return std::unexpected(arguments.error());
  return quietly(monitor.ask("object-add", *arguments));
}

Output device_del(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("device_del", {{"id", given.at("id")}}));
}

Output object_del(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("object-del", {{"id", given.at("id")}}));
}

Output block_resize(const HumanMonitor& monitor, const Given& given) {
  const auto size = parse_size(given.at("size"), kMiB);
  if (!size) return std::unexpected(QmpError{.description = "invalid size"});
  return quietly(monitor.ask("block_resize", {{"device", given.at("device")}, {"size", *size}}));
}

Output eject(const HumanMonitor& monitor, const Given& given) {
  return quietly(
      monitor.ask("eject", {{"device", given.at("device")}, {"force", given.contains("f")}}));
}

Output change(const HumanMonitor& monitor, const Given& given) {
  Json arguments{{"device", given.at("device")}, {"filename", given.at("filename")}};
  if (const auto format = given.find("format"); format != given.end()) {
    arguments["format"] = format->second;
  }
  return quietly(monitor.ask("blockdev-change-medium", arguments));
}

Output qom_list(const HumanMonitor& monitor, const Given& given) {
  const QmpResult list = monitor.ask("qom-list", {{"path", given.at("path")}});
  if (!list.has_value()) return std::unexpected(list.error());
  std::string text;
  for (const ReplyJson& row : *list) {
    text +=
        fmt::format("{} ({})\n", row["name"].get<std::string>(), row["type"].get<std::string>());
  }
  return text;
}

Output qom_get(const HumanMonitor& monitor, const Given& given) {
  const QmpResult value =
      monitor.ask("qom-get", {{"path", given.at("path")}, {"property", given.at("property")}});
  if (!value.has_value()) return std::unexpected(value.error());
  std::string text;
  append_json(text, *value);
  return text + "\n";
}

Output qom_set(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("qom-set", {{"path", given.at("path")},
                                         {"property", given.at("property")},
                                         {"value", value_json(given.at("value"))}}));
}

Output info(const HumanMonitor& monitor, const Given& given) {
  const auto typed = given.find("subcommand");
  std::string_view text = typed != given.end() ? std::string_view(typed->second) : "";
  const auto name = take_word(text);
  if (!name) return help_of_all(monitor, infos(), "info ");
  const Row* row = find_row(monitor, infos(), *name);
  if (row == nullptr) return fmt::format("unknown command: 'info {}'\n", *name);
  return run_row(monitor, *row, "info ", text);
}

/// "help", "help stop", "help info", "help info pci".
Output help(const HumanMonitor& monitor, const Given& given) {
  const auto typed = given.find("cmd");
  std::string_view text = typed != given.end() ? std::string_view(typed->second) : "";
  auto name = take_word(text);
  if (!name) return help_of_all(monitor, commands(), "");
  std::span<const Row> rows = commands();
  std::string_view prefix;
  if (*name == "info") {
    rows = infos();
    prefix = "info ";
    name = take_word(text);
    if (!name) return help_of_all(monitor, rows, prefix);
  }
  const Row* row = find_row(monitor, rows, *name);
  if (row == nullptr) return fmt::format("unknown command: '{}{}'\n", prefix, *name);
  return row->help_line(prefix);
}

/// A command without parameters, called as in QMP.
template <const char* Command>
Row plain_row(std::string_view alias, std::string_view help) {
  return {Command, alias, "", help, Command, {}, plain<Command>};
}

const Parameter kBlockDevice{.name = "device", .expected = "block device name"};
const Parameter kId{.name = "id"};
const Parameter kPath{.name = "path"};
const Parameter kProperty{.name = "property"};
const Parameter kSize{.name = "size", .expected = "size"};
const Parameter kFilename{.name = "filename", .expected = "file name"};
const Parameter kFormat{.name = "format", .presence = kOptional};
const Parameter kUri{.name = "uri"};
const Parameter kState{.name = "state"};
const Parameter kCapability{.name = "capability"};
const Parameter kParameter{.name = "parameter"};
const Parameter kValue{.name = "value"};
const Parameter kDetach{.name = "d", .kind = Kind::kFlag};
const Parameter kForce{.name = "f", .kind = Kind::kFlag};

/// All that is left of the line.
Parameter rest(std::string_view name, QmpPresence presence) {
  return {.name = name, .kind = Kind::kRest, .presence = presence};
}

const std::array kRows{
    Row{"block_resize",
        "",
        "device size",
        "resize a block image",
        "block_resize",
        {kBlockDevice, kSize},
        block_resize},
    Row{"change",
        "",
        "device filename [format]",
        "change a removable medium",
        "blockdev-change-medium",
        {kBlockDevice, kFilename, kFormat},
        change},
    plain_row<kCont>("c", "resume emulation"),
    Row{"device_add",
        "",
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        "device_add",
        {rest("device", kOptional)},
        device_add},
    Row{"device_del", "", "device", "remove device", "device_del", {kId}, device_del},
    Row{"eject",
        "",
        "[-f] device",
        "eject a removable medium (use -f to force it)",
        "eject",
        {kForce, kBlockDevice},
        eject},
    Row{"help", "?", "[cmd]", "show the help", "", {rest("cmd", kOptional)}, help},
    Row{"info",
        "",
        "[subcommand]",
        "show various information about the system state",
        "",
        {rest("subcommand", kOptional)},
        info},
    Row{"migrate",
        "",
        "[-d] uri",
        "migrate to URI (always detached)",
        "migrate",
        {kDetach, kUri},
        migrate},
    plain_row<kMigrateCancel>("", "cancel the current VM migration"),
    Row{"migrate_continue",
        "",
        "state",
        "Continue migration from the given paused state",
        "migrate-continue",
        {kState},
        migrate_continue},
    Row{"migrate_incoming",
        "",
        "uri",
        "Continue an incoming migration from an -incoming defer",
        "migrate-incoming",
        {kUri},
        migrate_incoming},
    Row{"migrate_set_capability",
        "",
        "capability state",
        "Enable/Disable the usage of a capability for migration",
        "migrate-set-capabilities",
        {kCapability, kState},
        migrate_set_capability},
    Row{"migrate_set_parameter",
        "",
        "parameter value",
        "Set the parameter for migration",
        "migrate-set-parameters",
        {kParameter, kValue},
        migrate_set_parameter},
    Row{"object_add",
        "",
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        "object-add",
        {rest("object", QmpPresence::kRequired)},
        object_add},
    Row{"object_del", "", "id", "destroy QOM object", "object-del", {kId}, object_del},
    Row{"qom-get",
        "",
        "path property",
        "print QOM property",
        "qom-get",
        {kPath, kProperty},
        qom_get},
    Row{"qom-list", "", "path", "list QOM properties", "qom-list", {kPath}, qom_list},
    Row{"qom-set",
        "",
        "path property value",
        "set QOM property",
        "qom-set",
        {kPath, kProperty, rest("value", QmpPresence::kRequired)},
        qom_set},
    plain_row<kQuit>("q", "quit the emulator"),
    plain_row<kStop>("s", "stop emulation"),
    plain_row<kPowerdown>("", "send system power down event"),
    plain_row<kReset>("", "reset the system"),
};

}  // namespace

std::span<const Row> commands() { return kRows; }

}  // namespace rhea::vmm::hmp
