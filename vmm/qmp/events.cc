#include "vmm/qmp/events.h"

#include <algorithm>
#include <array>

namespace rhea::vmm {
namespace {

constexpr auto kOptional = QmpPresence::kOptional;

std::vector<QmpArgument> job_summary_members() {
  return {{"type", QmpType::kString},
          {"device", QmpType::kString},
          {"len", QmpType::kInteger},
          {"offset", QmpType::kInteger},
          {"speed", QmpType::kInteger}};
}

std::vector<QmpArgument> completed_members() {
  std::vector<QmpArgument> members = job_summary_members();
  members.push_back({"error", QmpType::kString, kOptional});
  return members;
}

std::vector<QmpArgument> io_error_members() {
  return {{"device", QmpType::kString},
          {"qom-path", QmpType::kString},
          {"node-name", QmpType::kString, kOptional},
          {"operation", QmpType::kString, QmpPresence::kRequired, {"read", "write"}},
          {"action", QmpType::kString, QmpPresence::kRequired, {"ignore", "report", "stop"}},
          {"nospace", QmpType::kBoolean, kOptional},
          {"reason", QmpType::kString}};
}

std::vector<QmpArgument> cause_members() {
  return {{"guest", QmpType::kBoolean}, {"reason", QmpType::kString}};
}

std::vector<QmpArgument> device_members() {
  return {{"device", QmpType::kString, kOptional}, {"path", QmpType::kString}};
}

std::vector<QmpArgument> unplug_error_members() {
  std::vector<QmpArgument> members = device_members();
  members.push_back({"reason", QmpType::kString});  // beyond QEMU's
  return members;
}

}  // namespace

std::span<const QmpEvent> qmp_events() {
  static const std::array events{
      QmpEvent{"BLOCK_IO_ERROR", io_error_members()},
      QmpEvent{"BLOCK_JOB_CANCELLED", job_summary_members()},
      QmpEvent{"BLOCK_JOB_COMPLETED", completed_members()},
      QmpEvent{"BLOCK_JOB_READY", job_summary_members()},
      QmpEvent{"DEVICE_DELETED", device_members()},
      QmpEvent{"DEVICE_TRAY_MOVED",
               {{"device", QmpType::kString},
                {"id", QmpType::kString},
                {"tray-open", QmpType::kBoolean}}},
      QmpEvent{"DEVICE_UNPLUG_GUEST_ERROR", unplug_error_members()},
      QmpEvent{"JOB_STATUS_CHANGE", {{"id", QmpType::kString}, {"status", QmpType::kString}}},
      QmpEvent{"MIGRATION", {{"status", QmpType::kString}}},
      QmpEvent{"MIGRATION_PASS", {{"pass", QmpType::kInteger}}},
      QmpEvent{"POWERDOWN", {}},
      QmpEvent{"RESET", cause_members()},
      QmpEvent{"RESUME", {}},
      QmpEvent{"RHEA_EVENTS_DROPPED", {{"count", QmpType::kInteger}}},
      QmpEvent{"SHUTDOWN", cause_members()},
      QmpEvent{"STOP", {}},
  };
  return events;
}

bool is_declared(std::string_view event, const ReplyJson& data) {
  const auto events = qmp_events();
  const auto row = std::ranges::find(events, event, &QmpEvent::name);
  if (row == events.end()) return false;
  return !check_arguments(row->data, data.is_null() ? Json::object() : Json(data)).has_value();
}

}  // namespace rhea::vmm
