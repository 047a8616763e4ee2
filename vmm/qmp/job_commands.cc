#include "vmm/qmp/job_commands.h"

#include <array>
#include <string>
#include <utility>

#include "block/mirror.h"
#include "util/bql.h"
#include "util/parse.h"
#include "vmm/job_events.h"

namespace rhea::vmm {
namespace {

using block::Job;
using block::JobStatus;
constexpr auto kOptional = QmpPresence::kOptional;

std::string text_or(const Json& arguments, const char* name, std::string other) {
  const auto member = arguments.find(name);
  return member == arguments.end() ? std::move(other) : member->get<std::string>();
}

Result<uint64_t> number_or(const Json& arguments, const char* name, uint64_t other) {
  const auto member = arguments.find(name);
  if (member == arguments.end()) return other;
  if (member->is_number_unsigned()) return member->get<uint64_t>();
  return fail(ErrorKind::kInvalidArgument, "Parameter '{}' expects a non-negative value", name);
}

/// What QEMU has several ways for and this machine has one.
struct OnlyValue {
  const char* name;
  const char* value;
};
constexpr std::array kOnlyValues{OnlyValue{"sync", "full"}, OnlyValue{"copy-mode", "background"},
                                 OnlyValue{"on-source-error", "report"},
                                 OnlyValue{"on-target-error", "report"}};

Result<void> check_only_values(const Json& arguments) {
  for (const OnlyValue& only : kOnlyValues) {
    const std::string value = text_or(arguments, only.name, only.value);
    if (value == only.value) continue;
    return fail(ErrorKind::kUnsupported, "Parameter '{}' does not accept value '{}': only '{}'",
                only.name, value, only.value);
  }
  for (const char* name : {"auto-finalize", "auto-dismiss"}) {
    const auto member = arguments.find(name);
    if (member == arguments.end() || member->get<bool>()) continue;
    return fail(ErrorKind::kUnsupported, "Parameter '{}' can only be true", name);
  }
  return ok();
}

/// The node that a disk uses (by its drive's id), or the one of this name.
Result<block::Node*> source_node(Gs& gs, Storage& storage, const std::string& device) {
  const Disk* disk = storage.disks().find_drive(device);
  block::Node* node = disk != nullptr ? disk->node(gs) : storage.graph().find(gs, device);
  if (node != nullptr) return node;
  return fail(ErrorKind::kNotFound, "Cannot find device='{0}' nor node-name='{0}'", device);
}

QmpResult blockdev_mirror(Gs& gs, Storage& storage, const Json& arguments) {
  TRY(check_only_values(arguments));
  const auto device = arguments["device"].get<std::string>();
  const auto target_name = arguments["target"].get<std::string>();
  block::Node* source = TRY(source_node(gs, storage, device));
  block::Node* target = storage.graph().find(gs, target_name);
  if (target == nullptr) {
    return fail(ErrorKind::kNotFound, "Cannot find device='' nor node-name='{}'", target_name);
  }
  block::MirrorConfig config;
  config.id = text_or(arguments, "job-id", device);
  if (!is_identifier(config.id)) {
    return fail(ErrorKind::kInvalidArgument, "Invalid job ID '{}'", config.id);
  }
  if (storage.jobs().find(config.id) != nullptr) {
    return fail(ErrorKind::kExists, "Job ID '{}' already in use", config.id);
  }
  config.filter_name = text_or(arguments, "filter-node-name", "");
  config.speed = TRY(number_or(arguments, "speed", 0));
  config.granularity = TRY(number_or(arguments, "granularity", config.granularity));
  auto job = TRY(block::Mirror::create(gs, storage.graph(), *source, *target, config));
  TRY(storage.jobs().add(std::move(job)));
  return qmp_done();
}

QmpResult query_jobs(Storage& storage) {
  ReplyJson list = ReplyJson::array();
  for (const Job* job : storage.jobs().all()) {
    ReplyJson row{{"current-progress", job->offset()},
                  {"status", std::string(to_string(job->status()))},
                  {"total-progress", job->length()},
                  {"type", std::string(job->type())},
                  {"id", job->id()}};
    if (job->error()) row["error"] = job->error()->message();
    list.push_back(std::move(row));
  }
  return list;
}

QmpResult query_block_jobs(Storage& storage) {
  ReplyJson list = ReplyJson::array();
  for (const Job* job : storage.jobs().all()) {
    ReplyJson row = job_summary(*job);
    row["auto-finalize"] = true;
    row["auto-dismiss"] = true;
    row["io-status"] = "ok";
    row["busy"] = job->busy();
    row["status"] = std::string(to_string(job->status()));
    row["paused"] = job->user_paused();
    row["ready"] = job->status() == JobStatus::kReady || job->status() == JobStatus::kStandby;
    list.push_back(std::move(row));
  }
  return list;
}

using Verb = QmpResult (*)(Job& job, const Json& arguments);

QmpResult done(const Result<void>& result) {
  if (!result.has_value()) return result.error();
  return qmp_done();
}

QmpResult cancel_by_force(Job& job, const Json&) {
  job.cancel(Job::Cancel::kForce);
  return qmp_done();
}

QmpResult cancel(Job& job, const Json& arguments) {
  const auto force = arguments.find("force");
  const bool forced = force != arguments.end() && force->get<bool>();
  job.cancel(forced ? Job::Cancel::kForce : Job::Cancel::kSoft);
  return qmp_done();
}

QmpResult complete(Job& job, const Json&) { return done(job.complete()); }
QmpResult pause(Job& job, const Json&) { return done(job.user_pause()); }
QmpResult resume(Job& job, const Json&) { return done(job.user_resume()); }

QmpResult set_speed(Job& job, const Json& arguments) {
  job.set_speed(TRY(number_or(arguments, "speed", 0)));
  return qmp_done();
}

struct VerbRow {
  const char* command;
  const char* key;  ///< what names the job: the old commands call it a device
  Verb verb;
};
constexpr std::array kVerbs{VerbRow{"job-cancel", "id", cancel_by_force},
                            VerbRow{"job-complete", "id", complete},
                            VerbRow{"job-pause", "id", pause},
                            VerbRow{"job-resume", "id", resume},
                            VerbRow{"block-job-cancel", "device", cancel},
                            VerbRow{"block-job-complete", "device", complete},
                            VerbRow{"block-job-pause", "device", pause},
                            VerbRow{"block-job-resume", "device", resume},
                            VerbRow{"block-job-set-speed", "device", set_speed}};

void add_verb(QmpCommandTable& table, Storage& storage, const VerbRow& row) {
  std::vector<QmpArgument> arguments{{row.key, QmpType::kString}};
  if (row.verb == cancel) arguments.push_back({"force", QmpType::kBoolean, kOptional});
  if (row.verb == set_speed) arguments.push_back({"speed", QmpType::kInteger});
  table.add({.name = row.command,
             .arguments = std::move(arguments),
             .handler = [&storage, row](const Json& given) -> QmpResult {
               const auto id = given[row.key].get<std::string>();
               if (Job* job = storage.jobs().find(id)) return row.verb(*job, given);
               if (std::string_view(row.key) == "id")
                 return QmpError{.description = "Job not found"};
               return QmpError{QmpErrorClass::kDeviceNotActive,
                               fmt::format("Block job '{}' not found", id)};
             }});
}

std::vector<QmpArgument> mirror_arguments() {
  return {{"job-id", QmpType::kString, kOptional},
          {"device", QmpType::kString},
          {"target", QmpType::kString},
          {"sync", QmpType::kString},
          {"speed", QmpType::kInteger, kOptional},
          {"granularity", QmpType::kInteger, kOptional},
          {"on-source-error", QmpType::kString, kOptional},
          {"on-target-error", QmpType::kString, kOptional},
          {"filter-node-name", QmpType::kString, kOptional},
          {"copy-mode", QmpType::kString, kOptional},
          {"auto-finalize", QmpType::kBoolean, kOptional},
          {"auto-dismiss", QmpType::kBoolean, kOptional}};
}

}  // namespace

void add_job_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage) {
  table.add({.name = "blockdev-mirror",
             .arguments = mirror_arguments(),
             .handler = [&loop, &storage](const Json& arguments) {
               bql.assert_held();
               return blockdev_mirror(loop.gs(), storage, arguments);
             }});
  table.add({.name = "query-jobs", .arguments = {}, .handler = [&storage](const Json&) {
               return query_jobs(storage);
             }});
  table.add({.name = "query-block-jobs", .arguments = {}, .handler = [&storage](const Json&) {
               return query_block_jobs(storage);
             }});
  for (const VerbRow& row : kVerbs) add_verb(table, storage, row);
}

}  // namespace rhea::vmm
