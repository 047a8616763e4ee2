#include "vmm/qmp/blkdebug_commands.h"

#include <string>

#include "block/drivers/blkdebug.h"
#include "util/bql.h"

namespace rhea::vmm {
namespace {

using block::Blkdebug;

Result<Blkdebug*> injector(Gs& gs, Storage& storage, const std::string& name) {
  const block::Node* node = storage.graph().find(gs, name);
  if (node == nullptr) {
    return fail(ErrorKind::kNotFound, "Failed to find node with node-name='{}'", name);
  }
  auto* driver = dynamic_cast<Blkdebug*>(&node->driver());
  if (driver == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "Node '{}' is not a {} node", name, Blkdebug::kName);
  }
  return driver;
}

ReplyJson requests(size_t count) { return {{"requests", count}}; }

}  // namespace

void add_blkdebug_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage) {
  using Function = size_t (*)(Blkdebug&, const std::string& tag);
  const auto add = [&](const char* name, Function function) {
    table.add({name,
               {{"node-name", QmpType::kString}, {"tag", QmpType::kString}},
               [&loop, &storage, function](const Json& arguments) -> QmpResult {
                 bql.assert_held();
                 Blkdebug* driver =
                     TRY(injector(loop.gs(), storage, arguments["node-name"].get<std::string>()));
                 return requests(function(*driver, arguments["tag"].get<std::string>()));
               }});
  };
  add("x-blkdebug-suspended",
      [](Blkdebug& driver, const std::string& tag) { return driver.suspended(tag); });
  add("x-blkdebug-resume",
      [](Blkdebug& driver, const std::string& tag) { return driver.resume(tag); });
}

}  // namespace rhea::vmm
