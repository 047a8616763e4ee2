#include "vmm/qmp/block_queries.h"

#include <array>
#include <string>
#include <utility>

#include "block/drivers/throttle.h"
#include "util/bql.h"
#include "vmm/qmp/throttle_command.h"

namespace rhea::vmm {
namespace {

using block::RequestKind;

/// What a person would call the node: its file, or the file below it.
std::string file_name(Gs& gs, const block::Node& node) {
  for (const block::Node* at = &node; at != nullptr;) {
    if (std::string name = at->driver().filename(); !name.empty()) return name;
    const auto children = at->children(gs);
    at = children.size() == 1 ? children.front()->node(gs) : nullptr;
  }
  return fmt::format("json:{{\"driver\": \"{}\"}}", node.options().driver);
}

ReplyJson image_json(const block::Node& node, const std::string& name) {
  ReplyJson json;
  json["virtual-size"] = node.length();
  json["filename"] = name;
  json["format"] = node.options().driver;
  return json;
}

/// A node as BlockDeviceInfo.
ReplyJson node_json(Gs& gs, const block::Node& node, bool write_cache,
                    const block::ThrottleGroup* limits) {
  const std::string name = file_name(gs, node);
  ReplyJson json;
  json["file"] = name;
  json["node-name"] = node.name();
  json["ro"] = node.read_only();
  json["drv"] = node.options().driver;
  json["backing_file_depth"] = 0;
  json["encrypted"] = false;
  json["detect_zeroes"] = "off";
  append_limits(json, limits);
  json["image"] = image_json(node, name);
  json["cache"] = {{"writeback", write_cache},
                   {"direct", node.options().cache_direct},
                   {"no-flush", node.options().cache_no_flush}};
  json["write_threshold"] = 0;
  return json;
}

ReplyJson disk_json(Gs& gs, const Disk& disk) REQUIRES(bql) {
  ReplyJson json;
  json["device"] = disk.drive_id();
  if (!disk.qdev().empty()) json["qdev"] = disk.qdev();
  json["type"] = "unknown";
  json["removable"] = disk.removable();
  const DiskTray* tray = disk.tray();
  json["locked"] = tray != nullptr && tray->locked();
  if (tray != nullptr) json["tray_open"] = tray->position() == TrayPosition::kOpen;
  if (const block::Node* node = disk.node(gs)) {
    json["inserted"] = node_json(gs, *node, disk.write_cache(), disk.limits(gs));
  }
  if (const auto status = disk.io_status()) json["io-status"] = to_string(*status);
  return json;
}

QmpResult query_block(Gs& gs, Storage& storage, const Json&) {
  bql.assert_held();
  ReplyJson list = ReplyJson::array();
  for (const auto& disk : storage.disks().all()) list.push_back(disk_json(gs, *disk));
  return list;
}

/// Whether a node has a write cache is its device's to say.
bool node_write_cache(Gs& gs, Storage& storage, const block::Node& node) {
  for (const auto& disk : storage.disks().all()) {
    if (disk->node(gs) == &node) return disk->write_cache();
  }
  return true;
}

QmpResult query_named_block_nodes(Gs& gs, Storage& storage, const Json&) {
  ReplyJson list = ReplyJson::array();
  for (const block::Node* node : storage.graph().nodes(gs)) {
    const auto* throttle = dynamic_cast<const block::Throttle*>(&node->driver());
    list.push_back(node_json(gs, *node, node_write_cache(gs, storage, *node),
                             throttle != nullptr ? throttle->group(gs) : nullptr));
  }
  return list;
}

/// A row of BlockDeviceStats: what QEMU calls a kind of request, and which of ours count as it.
struct StatsRow {
  const char* prefix;
  std::array<RequestKind, 2> kinds;
  bool has_bytes;
};
constexpr std::array kStats{
    StatsRow{"rd", {RequestKind::kRead, RequestKind::kRead}, true},
    StatsRow{"wr", {RequestKind::kWrite, RequestKind::kZero}, true},
    StatsRow{"unmap", {RequestKind::kDiscard, RequestKind::kDiscard}, true},
    StatsRow{"flush", {RequestKind::kFlush, RequestKind::kFlush}, false},
};

ReplyJson stats_json(const block::BackendStats& stats) {
  ReplyJson json;
  for (const StatsRow& row : kStats) {
    block::BackendStats::Kind sum = stats.kinds[static_cast<size_t>(row.kinds[0])];
    if (row.kinds[1] != row.kinds[0]) {
      const auto& more = stats.kinds[static_cast<size_t>(row.kinds[1])];
      sum.operations += more.operations;
      sum.bytes += more.bytes;
      sum.failed += more.failed;
      sum.invalid += more.invalid;
      sum.time += more.time;
    }
    const std::string prefix = row.prefix;
    if (row.has_bytes) json[prefix + "_bytes"] = sum.bytes;
    json[prefix + "_operations"] = sum.operations;
    json[prefix + "_total_time_ns"] = sum.time.count();
    if (row.has_bytes) json[prefix + "_merged"] = 0;
    json["failed_" + prefix + "_operations"] = sum.failed;
    json["invalid_" + prefix + "_operations"] = sum.invalid;
  }
  json["wr_highest_offset"] = 0;
  json["account_invalid"] = true;
  json["account_failed"] = true;
  json["timed_stats"] = ReplyJson::array();
  return json;
}

ReplyJson disk_stats(Gs& gs, const Disk& disk) {
  ReplyJson json;
  json["device"] = disk.drive_id();
  if (!disk.qdev().empty()) json["qdev"] = disk.qdev();
  if (const block::Node* node = disk.node(gs)) json["node-name"] = node->name();
  json["stats"] =
      stats_json(disk.backend() != nullptr ? disk.backend()->stats() : block::BackendStats());
  return json;
}

/// Nodes count nothing: their users do.
ReplyJson node_stats(const block::Node& node) {
  ReplyJson json;
  json["node-name"] = node.name();
  json["stats"] = stats_json({});
  json["stats"]["account_invalid"] = false;
  json["stats"]["account_failed"] = false;
  return json;
}

QmpResult query_blockstats(Gs& gs, Storage& storage, const Json& arguments) {
  const auto by_node = arguments.find("query-nodes");
  ReplyJson list = ReplyJson::array();
  if (by_node != arguments.end() && by_node->get<bool>()) {
    for (const block::Node* node : storage.graph().nodes(gs)) list.push_back(node_stats(*node));
  } else {
    for (const auto& disk : storage.disks().all()) list.push_back(disk_stats(gs, *disk));
  }
  return list;
}

}  // namespace

void add_block_queries(QmpCommandTable& table, MainLoop& loop, Storage& storage) {
  using Function = QmpResult (*)(Gs&, Storage&, const Json&);
  const auto add = [&](const char* name, std::vector<QmpArgument> arguments, Function function) {
    table.add({name, std::move(arguments), [&loop, &storage, function](const Json& a) {
                 bql.assert_held();
                 return function(loop.gs(), storage, a);
               }});
  };
  add("query-block", {}, query_block);
  add("query-named-block-nodes", {{"flat", QmpType::kBoolean, QmpPresence::kOptional}},
      query_named_block_nodes);
  add("query-blockstats", {{"query-nodes", QmpType::kBoolean, QmpPresence::kOptional}},
      query_blockstats);
}

}  // namespace rhea::vmm
