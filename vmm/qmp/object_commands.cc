#include "vmm/qmp/object_commands.h"

#include <string>
#include <utility>

#include "util/bql.h"
#include "util/parse.h"
#include "vmm/iothread_object.h"
#include "vmm/qmp/json_options.h"

namespace rhea::vmm {
namespace {

QmpError generic(std::string description) { return {.description = std::move(description)}; }

/// What object-add takes besides qom-type and id: the type's properties.
std::optional<QmpError> check_properties(const ObjectType& type, const Json& arguments) {
  std::vector<QmpArgument> schema{{"qom-type", QmpType::kString}, {"id", QmpType::kString}};
  for (const ObjectProperty& property : type.properties) {
    schema.push_back({std::string(property.name), property.type, QmpPresence::kOptional});
  }
  return check_arguments(schema, arguments);
}

QmpResult object_add(Gs& gs, ObjectTable& objects, const Json& arguments) {
  // The type says what else there may be, so it is looked at before the rest.
  for (const char* name : {"qom-type", "id"}) {
    const auto member = arguments.find(name);
    if (member == arguments.end()) {
      return generic(fmt::format("Parameter '{}' is missing", name));
    }
    if (!member->is_string()) {
      return generic(fmt::format("Invalid parameter type for '{}', expected: string", name));
    }
  }
  const auto& type_name = arguments["qom-type"].get_ref<const std::string&>();
  const ObjectType* type = find_object_type(type_name);
  if (type == nullptr) {
    return generic(fmt::format("Parameter 'qom-type' does not accept value '{}'", type_name));
  }
  if (auto error = check_properties(*type, arguments)) return *std::move(error);
  const auto& id = arguments["id"].get_ref<const std::string&>();
  if (!is_identifier(id)) return generic("Parameter 'id' expects an identifier");
  Json properties = arguments;
  properties.erase("qom-type");
  properties.erase("id");
  TRY(objects.add(gs, *type, id, TRY(json_options(properties))));
  return qmp_done();
}

/// "/objects/ID", or the id alone, which is a path from anywhere.
std::expected<ObjectTable::Entry*, QmpError> object_at(ObjectTable& objects,
                                                       const std::string& path) {
  constexpr std::string_view kContainer = "/objects/";
  std::string_view id = path;
  if (id.starts_with(kContainer)) id.remove_prefix(kContainer.size());
  if (ObjectTable::Entry* entry = objects.find(id)) return entry;
  return std::unexpected(
      QmpError{QmpErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", path)});
}

QmpError no_property(const ObjectTable::Entry& entry, const std::string& name) {
  return generic(fmt::format("Property '{}.{}' not found", entry.type->name, name));
}

QmpResult qom_get(ObjectTable& objects, const Json& arguments) {
  auto entry = object_at(objects, arguments["path"].get<std::string>());
  if (!entry) return std::move(entry).error();
  const auto name = arguments["property"].get<std::string>();
  if (name == "type") return ReplyJson((*entry)->type->name);
  const ObjectProperty* property = (*entry)->type->find(name);
  if (property == nullptr) return no_property(**entry, name);
  return property->get(*(*entry)->object);
}

QmpResult qom_set(ObjectTable& objects, const Json& arguments) {
  auto entry = object_at(objects, arguments["path"].get<std::string>());
  if (!entry) return std::move(entry).error();
  const auto name = arguments["property"].get<std::string>();
  const ObjectProperty* property = (*entry)->type->find(name);
  if (property == nullptr) return no_property(**entry, name);
  const Json& value = arguments["value"];
  Json named = Json::object();
  named[name] = value;
  if (auto error = check_arguments({{name, property->type}}, named)) return *std::move(error);
  if (property->set == nullptr) {
    return generic(fmt::format("Property '{}.{}' can not be changed", (*entry)->type->name, name));
  }
  TRY(property->set(*(*entry)->object, value));
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
  const QmpArgument path{"path", QmpType::kString};
  const QmpArgument property{"property", QmpType::kString};
  const QmpArgument value{"value", QmpType::kAny};
  table.add({"object-add", {}, add, QmpShape::kAny});
  table.add({"object-del", {{"id", QmpType::kString}}, del});
  table.add(
      {"qom-get", {path, property}, [&objects](const Json& a) { return qom_get(objects, a); }});
  table.add({"qom-set", {path, property, value}, [&objects](const Json& a) {
               return qom_set(objects, a);
             }});
  table.add({"query-iothreads", {}, [&objects](const Json&) { return query_iothreads(objects); }});
}

}  // namespace rhea::vmm
