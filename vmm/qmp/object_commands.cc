#include "vmm/qmp/object_commands.h"

#include <string>
#include <utility>

#include "util/bql.h"
#include "util/parse.h"
#include "vmm/iothread_object.h"
#include "vmm/qmp/json_options.h"

namespace rhea::vmm {
namespace {

/// What object-add takes besides qom-type and id: the type's properties.
QmpVariants variants_of_types() {
  QmpVariants variants{.tag = "qom-type", .arguments = {}};
  for (const ObjectType& type : object_types()) {
    auto& arguments = variants.arguments[std::string(type.name)];
    for (const ObjectProperty& property : type.properties) {
      arguments.push_back({std::string(property.name), property.type, QmpPresence::kOptional});
    }
  }
  return variants;
}

std::vector<std::string> names_of_types() {
  std::vector<std::string> names;
  for (const ObjectType& type : object_types()) names.emplace_back(type.name);
  return names;
}

QmpResult object_add(Gs& gs, ObjectTable& objects, const Json& arguments) {
  const ObjectType* type = find_object_type(arguments["qom-type"].get_ref<const std::string&>());
  const auto& id = arguments["id"].get_ref<const std::string&>();
  if (!is_identifier(id)) return QmpError{.description = "Parameter 'id' expects an identifier"};
  Json properties = arguments;
  properties.erase("qom-type");
  properties.erase("id");
  TRY(objects.add(gs, *type, id, TRY(json_options(properties))));
  return qmp_done();
}

QmpResult query_iothreads(const ObjectTable& objects) {
  ReplyJson list = ReplyJson::array();
  for (const ObjectTable::Entry& entry : objects.entries()) {
    const auto* iothread = dynamic_cast<const IoThreadObject*>(entry.object.get());
    if (iothread == nullptr) continue;
    ReplyJson json;
    json["id"] = entry.id;
    json["thread-id"] = iothread->thread_id();
    json["poll-max-ns"] = iothread->polling().max_ns;
    json["poll-grow"] = iothread->polling().grow;
    json["poll-shrink"] = iothread->polling().shrink;
    json["aio-max-batch"] = 0;
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace

void add_object_commands(QmpCommandTable& table, MainLoop& loop, ObjectTable& objects) {
  const auto add = [&loop, &objects](const Json& arguments) {
    bql.assert_held();
    return object_add(loop.gs(), objects, arguments);
  };
  const auto del = [&loop, &objects](const Json& arguments) -> QmpResult {
    bql.assert_held();
    TRY(objects.del(loop.gs(), arguments["id"].get<std::string>()));
    return qmp_done();
  };
  table.add({.name = "object-add",
             .arguments = {{"qom-type", QmpType::kString, QmpPresence::kRequired, names_of_types()},
                           {"id", QmpType::kString}},
             .handler = add,
             .variants = variants_of_types()});
  table.add({"object-del", {{"id", QmpType::kString}}, del});
  table.add({"query-iothreads", {}, [&objects](const Json&) { return query_iothreads(objects); }});
}

}  // namespace rhea::vmm
