#include "vmm/qmp/server.h"

#include <cerrno>
#include <utility>

#include "util/check.h"
#include "vmm/qmp/events.h"
#include "vmm/qmp/schema.h"

namespace rhea::vmm {

namespace {

ReplyJson version_json(const QmpVersion& version) {
  ReplyJson qemu;
  qemu["micro"] = version.micro;
  qemu["minor"] = version.minor;
  qemu["major"] = version.major;
  ReplyJson json;
  json["qemu"] = std::move(qemu);
  json["package"] = version.package;
  return json;
}

/// No "oob": commands run one after another, on main.
std::string greeting_line(const QmpVersion& version) {
  ReplyJson greeting;
  greeting["QMP"] = {{"version", version_json(version)}, {"capabilities", ReplyJson::array()}};
  std::string line;
  append_json(line, greeting);
  return line.append("\r\n");
}

ReplyJson names_json(const QmpCommandTable& commands) {
  ReplyJson names = ReplyJson::array();
  for (const QmpCommand& command : commands.all()) names.push_back({{"name", command.name}});
  return names;
}

/// Its lines end as a terminal's do, as QEMU's.
ReplyJson terminal_text(std::string_view text) {
  std::string terminal;
  for (const char c : text) {
    if (c == '\n') terminal += '\r';
    terminal += c;
  }
  return terminal;
}

ReplyJson cause_json(Cause cause) {
  ReplyJson json;
  json["guest"] = is_guest(cause);
  json["reason"] = to_string(cause);
  return json;
}

std::string_view action_name(devices::OnIoError action) {
  switch (action) {
    case devices::OnIoError::kReport:
      return "report";
    case devices::OnIoError::kIgnore:
      return "ignore";
    case devices::OnIoError::kStop:
    case devices::OnIoError::kNoSpace:  // a policy; what is done is one of the others
      return "stop";
  }
  std::unreachable();
}

}  // namespace

QmpServer::QmpServer(AioContext& context, VmControl& vm, QmpCommandTable commands,
                     QmpVersion version, QmpLimits limits)
    : context_(context),
      vm_(vm),
      commands_(std::move(commands)),
      version_(std::move(version)),
      limits_(limits) {
  commands_.add({"query-version", {}, [this](const Json&) { return version_json(version_); }});
  commands_.add({"query-commands", {}, [this](const Json&) { return names_json(commands_); }});
  commands_.add({"query-qmp-schema", {}, [this](const Json&) {
                   return qmp_schema(commands_, qmp_events());
                 }});
  commands_.add(
      {"human-monitor-command", {{"command-line", QmpType::kString}}, [this](const Json& a) {
         return terminal_text(human_.run(a["command-line"].get<std::string>()));
       }});
  // Served by the session, which knows the phase; here for query-commands.
  commands_.add({"qmp_capabilities",
                 {{"enable", QmpType::kArray, QmpPresence::kOptional}},
                 [](const Json&) { return qmp_done(); }});
  vm_.add_observer(*this);
}

QmpServer::~QmpServer() {
  bql.assert_held();
  vm_.remove_observer(*this);
}

void QmpServer::add_monitor(devices::CharBackend& backend) {
  sessions_.push_back(
      std::make_unique<QmpSession>(context_, commands_, backend, greeting_line(version_), limits_));
}

void QmpServer::add_human_monitor(devices::CharBackend& backend) {
  human_sessions_.push_back(std::make_unique<HmpSession>(
      context_, human_, backend,
      fmt::format("{} monitor - type 'help' for more information", version_.package)));
}

void QmpServer::publish(std::string_view event, const ReplyJson& data) {
  RHEA_CHECK(is_declared(event, data), "qmp_events() does not know of {} {}", event, data.dump());
  if (sessions_.empty()) return;
  const std::string line = qmp_event_line(event, data);
  for (const auto& session : sessions_) session->send_event(line);
}

void QmpServer::stopped() { publish("STOP"); }
void QmpServer::resumed() { publish("RESUME"); }
void QmpServer::was_reset(Cause cause) { publish("RESET", cause_json(cause)); }
void QmpServer::powerdown_requested() { publish("POWERDOWN"); }
void QmpServer::shutting_down(Cause cause) { publish("SHUTDOWN", cause_json(cause)); }

void QmpServer::disk_error(const DiskError& error) {
  ReplyJson json;
  json["device"] = error.drive_id;
  json["qom-path"] = error.qdev;
  if (!error.error.node.empty()) json["node-name"] = error.error.node;
  const bool read = error.error.operation == devices::IoError::Operation::kRead;
  json["operation"] = read ? "read" : "write";
  json["action"] = action_name(error.error.action);
  if (error.tracks_status) json["nospace"] = error.error.os_errno == ENOSPC;
  json["reason"] = error.error.reason;
  publish("BLOCK_IO_ERROR", json);
}

}  // namespace rhea::vmm
