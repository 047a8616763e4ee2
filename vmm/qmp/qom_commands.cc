#include "vmm/qmp/qom_commands.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "vmm/device_table.h"
#include "vmm/object_table.h"

namespace rhea::vmm {
namespace {

QmpError generic(std::string description) { return {.description = std::move(description)}; }

QmpResult qom_list(const FoundNode& at, const Json&) {
  ReplyJson list = ReplyJson::array();
  list.push_back({{"name", "type"}, {"type", "string"}});
  for (const QomProperty& property : at.node->properties) {
    list.push_back({{"name", property.name}, {"type", property.type}});
  }
  for (const QomNode& child : at.node->children) {
    list.push_back({{"name", child.name}, {"type", fmt::format("child<{}>", child.type)}});
  }
  return list;
}

const QomProperty* find_property(const QomNode& node, const std::string& name) {
  const auto at = std::ranges::find(node.properties, name, &QomProperty::name);
  return at == node.properties.end() ? nullptr : &*at;
}

bool has_child(const QomNode& node, const std::string& name) {
  return std::ranges::find(node.children, name, &QomNode::name) != node.children.end();
}

QmpError no_property(const QomNode& node, const std::string& name) {
  return generic(fmt::format("Property '{}.{}' not found", node.type, name));
}

QmpResult qom_get(const FoundNode& at, const Json& arguments) {
  const auto name = arguments["property"].get<std::string>();
  if (name == "type") return ReplyJson(at.node->type);
  if (const QomProperty* property = find_property(*at.node, name)) return property->value;
  if (has_child(*at.node, name)) return ReplyJson(at.path + "/" + name);
  return no_property(*at.node, name);
}

QmpResult qom_set(const FoundNode& at, const Json& arguments) {
  const auto name = arguments["property"].get<std::string>();
  const QomProperty* property = find_property(*at.node, name);
  if (property != nullptr && property->set) return property->set(arguments["value"]);
  if (property != nullptr || name == "type" || has_child(*at.node, name)) {
    return generic(fmt::format("Property '{}.{}' is not writable", at.node->type, name));
  }
  return no_property(*at.node, name);
}

struct Type {
  std::string parent;  ///< empty: none
  bool abstract = false;
};
using Types = std::map<std::string, Type, std::less<>>;

/// All that -device and -object can make, and what these are kinds of.
Types all_types() {
  Types types{{"object", {.parent = "", .abstract = true}},
              {"device", {.parent = "object", .abstract = true}},
              {"machine", {.parent = "object", .abstract = true}},
              {"pc-machine", {.parent = "machine"}},
              {"memory-backend", {.parent = "object", .abstract = true}}};
  for (const char* backend :
       {"memory-backend-file", "memory-backend-memfd", "memory-backend-ram"}) {
    types[backend] = {.parent = "memory-backend"};
  }
  for (const ObjectType& type : object_types())
    types[std::string(type.name)] = {.parent = "object"};
  for (const DeviceRow& row : device_table()) {
    types[parent_type(row)] = {.parent = "device", .abstract = true};
    types[std::string(row.driver)] = {.parent = parent_type(row)};
  }
  return types;
}

bool implements(const Types& types, std::string name, const std::string& wanted) {
  while (!name.empty() && name != wanted) name = types.at(name).parent;
  return !name.empty();
}

QmpResult qom_list_types(const Json& arguments) {
  const Types types = all_types();
  const auto wanted = arguments.find("implements");
  const auto abstract = arguments.find("abstract");
  const bool with_abstract = abstract != arguments.end() && abstract->get<bool>();
  ReplyJson list = ReplyJson::array();
  for (const auto& [name, type] : types) {
    if (type.abstract && !with_abstract) continue;
    if (wanted != arguments.end() && !implements(types, name, wanted->get<std::string>())) continue;
    ReplyJson json;
    if (type.abstract) json["abstract"] = true;
    json["name"] = name;
    if (!type.parent.empty()) json["parent"] = type.parent;
    list.push_back(std::move(json));
  }
  return list;
}

ReplyJson describe(const DeviceProperty& property) {
  ReplyJson json;
  if (!property.fallback.empty()) {
    json["default-value"] = property_value(property.type, property.fallback);
  }
  json["name"] = property.name;
  if (!property.help.empty()) json["description"] = property.help;
  json["type"] = property.type;
  return json;
}

QmpResult device_list_properties(const Json& arguments) {
  const auto name = arguments["typename"].get<std::string>();
  const DeviceRow* row = find_device_row(name);
  if (row == nullptr && all_types().contains(name)) {
    return generic("Parameter 'typename' expects a non-abstract device type");
  }
  if (row == nullptr) {
    return QmpError{QmpErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name)};
  }
  ReplyJson list = ReplyJson::array();
  for (const DeviceProperty& property : properties_of(*row)) list.push_back(describe(property));
  return list;
}

}  // namespace

void add_qom_commands(QmpCommandTable& table, std::function<QomNode()> tree) {
  using Function = QmpResult (*)(const FoundNode&, const Json&);
  const auto add = [&](const char* name, std::vector<QmpArgument> arguments, Function function) {
    arguments.insert(arguments.begin(), {"path", QmpType::kString});
    table.add({name, std::move(arguments), [tree, function](const Json& given) -> QmpResult {
                 const QomNode root = tree();
                 const auto found = find_node(root, given["path"].get<std::string>());
                 if (!found.has_value()) return found.error();
                 return function(*found, given);
               }});
  };
  const QmpArgument property{"property", QmpType::kString};
  add("qom-list", {}, qom_list);
  add("qom-get", {property}, qom_get);
  add("qom-set", {property, {"value", QmpType::kAny}}, qom_set);
  table.add({"qom-list-types",
             {{"implements", QmpType::kString, QmpPresence::kOptional},
              {"abstract", QmpType::kBoolean, QmpPresence::kOptional}},
             qom_list_types});
  table.add({"device-list-properties", {{"typename", QmpType::kString}}, device_list_properties});
}

}  // namespace rhea::vmm
