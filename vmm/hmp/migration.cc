// The human monitor's view of migration.
#include <optional>
#include <utility>

#include "vmm/hmp/rows.h"

namespace rhea::vmm::hmp {
namespace {

Output quietly(const QmpResult& result) {
  if (!result.has_value()) return std::unexpected(result.error());
  return "";
}

double number_of(const ReplyJson& json, const char* member) {
  const auto at = json.find(member);
  return at != json.end() && at->is_number() ? at->get<double>() : 0;
}

/// A line for each member that is there.
std::string times_text(const ReplyJson& json) {
  std::string text;
  for (const char* time : {"total-time", "setup-time", "expected-downtime", "downtime"}) {
    if (json.contains(time)) text += fmt::format("{}: {} ms\n", time, json[time].get<int64_t>());
  }
  return text;
}

std::string ram_text(const ReplyJson& ram) {
  constexpr double kKib = 1024;
  std::string text;
  for (const char* bytes : {"transferred", "remaining", "total"}) {
    text += fmt::format("{} ram: {:.0f} kbytes\n", bytes, number_of(ram, bytes) / kKib);
  }
  text += fmt::format("throughput: {:.2f} mbps\n", number_of(ram, "mbps"));
  text += fmt::format("duplicate: {} pages\nnormal: {} pages\n", number_of(ram, "duplicate"),
                      number_of(ram, "normal"));
  text += fmt::format("dirty sync count: {}\ndirty pages rate: {} pages\n",
                      number_of(ram, "dirty-sync-count"), number_of(ram, "dirty-pages-rate"));
  text += fmt::format("main connection: {:.0f} kbytes\n", number_of(ram, "x-main-bytes") / kKib);
  const ReplyJson& channels = ram["x-channels"];
  for (size_t i = 0; i < channels.size(); ++i) {
    text += fmt::format("channel {}: {:.0f} kbytes\n", i, channels[i].get<double>() / kKib);
  }
  return text;
}

std::string phases_text(const ReplyJson& phases) {
  std::string text = "phases:";
  for (const auto& [phase, time] : phases.items()) {
    if (!time.is_array()) {
      text += fmt::format(" {} {:.1f} ms", phase, time.get<double>());
      continue;
    }
    text += fmt::format(" {}", phase);
    for (const ReplyJson& pass : time) text += fmt::format(" {:.1f}", pass.get<double>());
    text += " ms";
  }
  text += '\n';
  return text;
}

/// "on", "12", "none".
std::string value_text(const ReplyJson& value) {
  if (value.is_boolean()) return value.get<bool>() ? "on" : "off";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

Output info_migrate(const HumanMonitor& monitor, const Given&) {
  const QmpResult answer = monitor.ask("query-migrate");
  if (!answer.has_value()) return std::unexpected(answer.error());
  const ReplyJson& json = *answer;
  if (!json.contains("status")) return "";
  std::string text = fmt::format("Migration status: {}", value_text(json["status"]));
  if (json.contains("error-desc")) text += fmt::format(" ({})", value_text(json["error-desc"]));
  text += '\n';
  text += times_text(json);
  if (json.contains("cpu-throttle-percentage")) {
    text +=
        fmt::format("cpu throttle percentage: {}\n", number_of(json, "cpu-throttle-percentage"));
  }
  if (json.contains("ram")) text += ram_text(json["ram"]);
  if (json.contains("x-phases-ms")) text += phases_text(json["x-phases-ms"]);
  if (json.contains("x-stall")) {
    text += fmt::format("does not converge: {}\n", value_text(json["x-stall"]));
  }
  return text;
}

Output info_migrate_capabilities(const HumanMonitor& monitor, const Given&) {
  const QmpResult answer = monitor.ask("query-migrate-capabilities");
  if (!answer.has_value()) return std::unexpected(answer.error());
  std::string text;
  for (const ReplyJson& row : *answer) {
    text += fmt::format("{}: {}\n", value_text(row["capability"]), value_text(row["state"]));
  }
  return text;
}

Output info_migrate_parameters(const HumanMonitor& monitor, const Given&) {
  const QmpResult answer = monitor.ask("query-migrate-parameters");
  if (!answer.has_value()) return std::unexpected(answer.error());
  std::string text;
  for (const auto& [name, value] : answer->items()) {
    text += fmt::format("{}: {}\n", name, value_text(value));
  }
  return text;
}

/// Returns at once, with -d or without: whoever waits here would keep main from its work.
Output migrate(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("migrate", {{"uri", given.at("uri")}}));
}

Output migrate_incoming(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("migrate-incoming", {{"uri", given.at("uri")}}));
}

Output migrate_continue(const HumanMonitor& monitor, const Given& given) {
  return quietly(monitor.ask("migrate-continue", {{"state", given.at("state")}}));
}

Output migrate_set_capability(const HumanMonitor& monitor, const Given& given) {
  const std::string& state = given.at("state");
  if (state != "on" && state != "off") {
    return std::unexpected(QmpError{.description = "Parameter 'state' expects 'on' or 'off'"});
  }
  const Json one{{"capability", given.at("capability")}, {"state", state == "on"}};
  return quietly(monitor.ask("migrate-set-capabilities", {{"capabilities", Json::array({one})}}));
}

Output migrate_set_parameter(const HumanMonitor& monitor, const Given& given) {
  const std::string& text = given.at("value");
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) value = text;
  if (text == "on" || text == "off") value = text == "on";
  return quietly(monitor.ask("migrate-set-parameters", {{given.at("parameter"), value}}));
}

}  // namespace rhea::vmm::hmp
