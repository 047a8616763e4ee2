#include "vmm/qmp/block_commands.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "util/bql.h"
#include "util/parse.h"
#include "vmm/iothread_object.h"
#include "vmm/qmp/json_options.h"

namespace rhea::vmm {
namespace {

QmpError generic(std::string description) { return {.description = std::move(description)}; }

std::string text_or_empty(const Json& arguments, const char* name) {
  const auto member = arguments.find(name);
  return member == arguments.end() ? std::string() : member->get<std::string>();
}

QmpResult blockdev_add(Gs& gs, Storage& storage, const Json& arguments) {
  if (const auto name = arguments.find("node-name"); name != arguments.end()) {
    const auto& text = name->get_ref<const std::string&>();
    if (!is_identifier(text)) return generic(fmt::format("Invalid node-name: '{}'", text));
    if (storage.disks().find_drive(text) != nullptr) {
      return generic(fmt::format("node-name={} is conflicting with a device id", text));
    }
  }
  TRY(storage.graph().add(gs, TRY(json_options(arguments))));
  return qmp_done();
}

QmpResult blockdev_reopen(Gs& gs, Storage& storage, const Json& arguments) {
  std::vector<OptionTree> nodes;
  for (const Json& options : arguments["options"]) {
    if (!options.is_object()) {
      return generic(
          fmt::format("Invalid parameter type for 'options[{}]', expected: object", nodes.size()));
    }
    if (!options.contains("node-name")) return generic("node-name not specified");
    nodes.push_back(TRY(json_options(options)));
  }
  TRY(storage.graph().reopen(gs, std::move(nodes)));
  return qmp_done();
}

/// The medium of a -drive, or a node by its name.
Result<block::Node*> medium(Gs& gs, Storage& storage, const std::string& device,
                            const std::string& node_name) {
  if (const Disk* disk = storage.disks().find_drive(device)) {
    block::Node* node = disk->node(gs);
    if (node == nullptr) return fail(ErrorKind::kNotFound, "Device '{}' has no medium", device);
    return node;
  }
  block::Node* node = storage.graph().find(gs, node_name);
  if (node == nullptr) {
    return fail(ErrorKind::kNotFound, "Cannot find device='{}' nor node-name='{}'", device,
                node_name);
  }
  return node;
}

QmpResult block_resize(Gs& gs, Storage& storage, const Json& arguments) {
  block::Node* node = TRY(medium(gs, storage, text_or_empty(arguments, "device"),
                                 text_or_empty(arguments, "node-name")));
  const Json& size = arguments["size"];
  // Offsets are signed in the host's calls.
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  if (!size.is_number_unsigned() || size.get<uint64_t>() > kMost) {
    return generic("Parameter 'size' expects a >0 size");
  }
  TRY(storage.graph().resize(gs, *node, size.get<uint64_t>()));
  return qmp_done();
}

bool leads_to(Gs& gs, const block::Node* from, const block::Node* to) {
  if (from == nullptr || from == to) return from != nullptr;
  return std::ranges::any_of(from->children(gs),
                             [&](const auto& edge) { return leads_to(gs, edge->node(gs), to); });
}

/// Null is main.
Result<IoThreadObject*> find_iothread(Storage& storage, const Json& name) {
  if (name.is_null()) return nullptr;
  if (!name.is_string()) {
    return fail(ErrorKind::kInvalidArgument,
                "Invalid parameter type for 'iothread', expected: StrOrNull");
  }
  const auto& id = name.get_ref<const std::string&>();
  const ObjectTable::Entry* entry = storage.objects().find(id);
  auto* iothread = entry == nullptr ? nullptr : dynamic_cast<IoThreadObject*>(entry->object.get());
  if (iothread == nullptr) return fail(ErrorKind::kNotFound, "Cannot find iothread {}", id);
  return iothread;
}

/// All of them or none.
Result<void> move_all(std::span<const Disk* const> disks, IoThreadObject* iothread) {
  Result<void> held = ok();
  size_t count = 0;
  for (; held.has_value() && count < disks.size(); ++count) held = disks[count]->move()->hold();
  if (!held) --count;  // the last one goes on by itself
  for (const Disk* disk : disks.first(count)) {
    if (held.has_value()) disk->move()->move(iothread);
    disk->move()->release();
  }
  return held;
}

/// A node has no thread of its own here: its requests run where their sender is. So what moves is
/// the devices whose requests reach it; to be safe, only if that is what the user says.
QmpResult set_iothread(Gs& gs, Storage& storage, const Json& arguments) {
  const auto name = arguments["node-name"].get<std::string>();
  IoThreadObject* iothread = TRY(find_iothread(storage, arguments["iothread"]));
  const block::Node* node = storage.graph().find(gs, name);
  if (node == nullptr) {
    return generic(fmt::format("Failed to find node with node-name='{}'", name));
  }
  std::vector<const Disk*> users;
  for (const auto& disk : storage.disks().all()) {
    const block::BlockBackend* backend = disk->backend();
    if (backend == nullptr || !leads_to(gs, backend->node(gs), node)) continue;
    if (disk->move() == nullptr) {
      return generic(fmt::format("{} can not be moved: its requests run on its adapter's queues",
                                 backend->describe()));
    }
    users.push_back(disk.get());
  }
  const auto force = arguments.find("force");
  if (!users.empty() && (force == arguments.end() || !force->get<bool>())) {
    return generic(
        fmt::format("Node {} is associated with a BlockBackend and could be in use (use "
                    "force=true to override this check)",
                    name));
  }
  TRY(move_all(users, iothread));
  return qmp_done();
}

}  // namespace

void add_block_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage) {
  using Function = QmpResult (*)(Gs&, Storage&, const Json&);
  const auto add = [&](const char* name, std::vector<QmpArgument> arguments, Function function,
                       QmpShape shape = QmpShape::kDeclared) {
    table.add({name, std::move(arguments),
               [&loop, &storage, function](const Json& a) {
                 bql.assert_held();
                 return function(loop.gs(), storage, a);
               },
               shape});
  };
  const QmpArgument node_name{"node-name", QmpType::kString};
  add("blockdev-add",
      {{"driver", QmpType::kString}, {"node-name", QmpType::kString, QmpPresence::kOptional}},
      blockdev_add, QmpShape::kAny);
  add("blockdev-del", {node_name}, [](Gs& gs, Storage& s, const Json& a) -> QmpResult {
    TRY(s.graph().del(gs, a["node-name"].get<std::string>()));
    return qmp_done();
  });
  add("blockdev-reopen", {{"options", QmpType::kArray}}, blockdev_reopen);
  add("block_resize",
      {{"device", QmpType::kString, QmpPresence::kOptional},
       {"node-name", QmpType::kString, QmpPresence::kOptional},
       {"size", QmpType::kInteger}},
      block_resize);
  add("x-blockdev-set-iothread",
      {node_name,
       {"iothread", QmpType::kAny},
       {"force", QmpType::kBoolean, QmpPresence::kOptional}},
      set_iothread);
}

}  // namespace rhea::vmm
