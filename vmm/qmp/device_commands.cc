#include "vmm/qmp/device_commands.h"

#include <string>
#include <utility>

#include "util/bql.h"
#include "util/option_reader.h"
#include "vmm/qmp/json_options.h"

namespace rhea::vmm {
namespace {

Result<DeviceConfig> device_config(const Json& arguments) {
  OptionReader reader(TRY(json_options(arguments)));
  DeviceConfig config;
  config.driver = TRY(reader.take_required("driver"));
  config.id = TRY(reader.take_identifier("id")).value_or("");
  config.options = reader.take_rest();
  return config;
}

QmpResult device_add(Hotplug& hotplug, const Json& arguments) REQUIRES(bql) {
  TRY(hotplug.add(TRY(device_config(arguments))));
  return qmp_done();
}

QmpResult device_del(Hotplug& hotplug, const Json& arguments) REQUIRES(bql) {
  const auto asked = hotplug.request_removal(arguments["id"].get<std::string>());
  if (!asked.has_value() && asked.error().kind() == ErrorKind::kNotFound) {
    return QmpError{QmpErrorClass::kDeviceNotFound, asked.error().message()};
  }
  TRY(asked);
  return qmp_done();
}

QmpResult query_hotplug(Hotplug& hotplug, const Json&) REQUIRES(bql) {
  ReplyJson list = ReplyJson::array();
  for (const Hotplug::Status& status : hotplug.query()) {
    ReplyJson json;
    json["id"] = status.id;
    if (status.slot) json["slot"] = *status.slot;
    json["state"] = to_string(status.state);
    json["since-ms"] = std::chrono::duration_cast<std::chrono::milliseconds>(status.since).count();
    if (!status.reason.empty()) json["reason"] = status.reason;
    list.push_back(std::move(json));
  }
  return list;
}

QmpResult forbid_hotplug(Hotplug& hotplug, const Json& arguments) REQUIRES(bql) {
  hotplug.forbid(arguments["while"].get<std::string>());
  return qmp_done();
}

QmpResult allow_hotplug(Hotplug& hotplug, const Json& arguments) REQUIRES(bql) {
  TRY(hotplug.allow(arguments["while"].get<std::string>()));
  return qmp_done();
}

}  // namespace

void add_device_commands(QmpCommandTable& table, Hotplug& hotplug) {
  using Function = QmpResult (*)(Hotplug&, const Json&);
  // The analysis does not follow a pointer; QmpSession::serve() has asserted the BQL.
  const auto add = [&](const char* name, std::vector<QmpArgument> arguments, Function function,
                       QmpShape shape = QmpShape::kDeclared,
                       std::vector<std::string> features = {}) {
    table.add({.name = name,
               .arguments = std::move(arguments),
               .handler = [&hotplug, function](const Json& a) { return function(hotplug, a); },
               .shape = shape,
               .features = std::move(features)});
  };
  constexpr auto kOptional = QmpPresence::kOptional;
  const std::vector<QmpArgument> place{{"driver", QmpType::kString},
                                       {"bus", QmpType::kString, kOptional},
                                       {"id", QmpType::kString, kOptional}};
  // -device takes the same as JSON, and what came that way can be pulled out.
  add("device_add", place, device_add, QmpShape::kAny, {"json-cli", "json-cli-hotplug"});
  add("device_del", {{"id", QmpType::kString}}, device_del);
  add("x-query-hotplug", {}, query_hotplug);
  // What a migration does, for tests and for who must not be disturbed.
  add("x-forbid-hotplug", {{"while", QmpType::kString}}, forbid_hotplug);
  add("x-allow-hotplug", {{"while", QmpType::kString}}, allow_hotplug);
}

}  // namespace rhea::vmm
