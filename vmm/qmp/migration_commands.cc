#include "vmm/qmp/migration_commands.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "util/bql.h"

namespace rhea::vmm {
namespace {

constexpr auto kOptional = QmpPresence::kOptional;
constexpr std::string_view kCompression = "multifd-compression";
constexpr std::string_view kPageChecksum = "x-page-checksum";
constexpr std::string_view kNoCompression = "none";
constexpr std::string_view kZstd = "zstd";

/// What QEMU's migrate takes besides, and this one can only be told not to do.
constexpr std::array<std::string_view, 3> kNotDone{"blk", "inc", "resume"};

/// fd:NAME is one that the client of this monitor has passed.
migration::TakeFd taken_from(NamedFds& fds) {
  return [&fds](std::string_view name) { return fds.take(name); };
}

QmpResult migrate(Migrator& migrator, const Json& arguments, NamedFds& fds) REQUIRES(bql) {
  for (const std::string_view name : kNotDone) {
    const auto at = arguments.find(name);
    if (at == arguments.end() || !at->get<bool>()) continue;
    return QmpError{.description = fmt::format("Parameter '{}' can only be false", name)};
  }
  TRY(migrator.migrate(arguments["uri"].get_ref<const std::string&>(), taken_from(fds)));
  return qmp_done();
}

QmpResult migrate_incoming(Migrator& migrator, const Json& arguments, NamedFds& fds) REQUIRES(bql) {
  TRY(migrator.await(arguments["uri"].get_ref<const std::string&>(), taken_from(fds)));
  return qmp_done();
}

QmpResult migrate_cancel(Migrator& migrator, const Json&, NamedFds&) REQUIRES(bql) {
  migrator.cancel();
  return qmp_done();
}

QmpResult migrate_continue(Migrator& migrator, const Json& arguments, NamedFds&) REQUIRES(bql) {
  TRY(migrator.go_on(arguments["state"].get_ref<const std::string&>()));
  return qmp_done();
}

QmpResult set_capabilities(Migrator& migrator, const Json& arguments, NamedFds&) REQUIRES(bql) {
  MigrationCapabilities capabilities = migrator.settings().capabilities;
  const std::vector<QmpArgument> schema{{"capability", QmpType::kString},
                                        {"state", QmpType::kBoolean}};
  for (const Json& item : arguments["capabilities"]) {
    if (!item.is_object()) {
      return QmpError{.description = "Invalid parameter type for 'capabilities', expected: object"};
    }
    if (auto wrong = check_arguments(schema, item)) return *std::move(wrong);
    const auto& name = item["capability"].get_ref<const std::string&>();
    const auto row = std::ranges::find(capability_rows(), name, &CapabilityRow::name);
    if (row == capability_rows().end()) {
      return QmpError{.description =
                          fmt::format("Parameter 'capability' does not accept value '{}'", name)};
    }
    capabilities.*row->value = item["state"].get<bool>();
  }
  TRY(migrator.set_capabilities(capabilities));
  return qmp_done();
}

QmpResult query_capabilities(Migrator& migrator, const Json&, NamedFds&) {
  ReplyJson list = ReplyJson::array();
  for (const CapabilityRow& row : capability_rows()) {
    ReplyJson json;
    json["state"] = migrator.settings().capabilities.*row.value;
    json["capability"] = row.name;
    list.push_back(std::move(json));
  }
  return list;
}

QmpResult set_parameters(Migrator& migrator, const Json& arguments, NamedFds&) REQUIRES(bql) {
  MigrationParameters parameters = migrator.settings().parameters;
  for (const ParameterRow& row : parameter_rows()) {
    const auto at = arguments.find(row.name);
    if (at == arguments.end()) continue;
    // A number below zero, or beyond 64 bits, is out of every range.
    parameters.*row.value = at->is_number_unsigned() ? at->get<uint64_t>() : ~uint64_t{0};
  }
  if (const auto at = arguments.find(kCompression); at != arguments.end()) {
    parameters.multifd_zstd = at->get_ref<const std::string&>() == kZstd;
  }
  if (const auto at = arguments.find(kPageChecksum); at != arguments.end()) {
    parameters.x_page_checksum = at->get<bool>();
  }
  TRY(migrator.set_parameters(parameters));
  return qmp_done();
}

QmpResult query_parameters(Migrator& migrator, const Json&, NamedFds&) {
  const MigrationParameters& parameters = migrator.settings().parameters;
  ReplyJson json;
  for (const ParameterRow& row : parameter_rows())
    json[std::string(row.name)] = parameters.*row.value;
  json[std::string(kCompression)] = parameters.multifd_zstd ? kZstd : kNoCompression;
  json[std::string(kPageChecksum)] = parameters.x_page_checksum;
  return json;
}

QmpResult query_migrate(Migrator& migrator, const Json&, NamedFds&) REQUIRES(bql) {
  return migration_json(migrator.progress(), migrator.listens_at());
}

std::vector<QmpArgument> parameter_arguments() {
  std::vector<QmpArgument> arguments;
  for (const ParameterRow& row : parameter_rows()) {
    arguments.push_back({std::string(row.name), QmpType::kInteger, kOptional});
  }
  arguments.push_back({.name = std::string(kCompression),
                       .type = QmpType::kString,
                       .presence = kOptional,
                       .values = {std::string(kNoCompression), std::string(kZstd)}});
  arguments.push_back({std::string(kPageChecksum), QmpType::kBoolean, kOptional});
  return arguments;
}

}  // namespace

void add_migration_commands(QmpCommandTable& table, Migrator& migrator) {
  using Function = QmpResult (*)(Migrator&, const Json&, NamedFds&);
  // The analysis does not follow a pointer; QmpSession::serve() has asserted the BQL.
  const auto add = [&](const char* name, std::vector<QmpArgument> arguments, Function function) {
    table.add({.name = name,
               .arguments = std::move(arguments),
               .handler = [&migrator, function](const Json& a, NamedFds& fds) {
                 return function(migrator, a, fds);
               }});
  };
  add("migrate",
      {{"uri", QmpType::kString},
       {"blk", QmpType::kBoolean, kOptional},
       {"inc", QmpType::kBoolean, kOptional},
       {"detach", QmpType::kBoolean, kOptional},
       {"resume", QmpType::kBoolean, kOptional}},
      migrate);
  add("migrate-incoming", {{"uri", QmpType::kString}}, migrate_incoming);
  add("migrate_cancel", {}, migrate_cancel);
  add("migrate-continue", {{"state", QmpType::kString}}, migrate_continue);
  add("migrate-set-capabilities", {{"capabilities", QmpType::kArray}}, set_capabilities);
  add("query-migrate-capabilities", {}, query_capabilities);
  add("migrate-set-parameters", parameter_arguments(), set_parameters);
  add("query-migrate-parameters", {}, query_parameters);
  add("query-migrate", {}, query_migrate);
}

}  // namespace rhea::vmm
