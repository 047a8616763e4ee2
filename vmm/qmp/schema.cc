#include "vmm/qmp/schema.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace rhea::vmm {
namespace {

struct Builtin {
  std::string_view name;
  std::string_view json_type;
};
constexpr std::array kBuiltins{Builtin{"any", "value"}, Builtin{"bool", "boolean"},
                               Builtin{"int", "int"}, Builtin{"number", "number"},
                               Builtin{"str", "string"}};

std::string_view builtin_of(QmpType type) {
  switch (type) {
    case QmpType::kString:
      return "str";
    case QmpType::kInteger:
      return "int";
    case QmpType::kNumber:
      return "number";
    case QmpType::kBoolean:
      return "bool";
    case QmpType::kObject:  // its members are the handler's to check
    case QmpType::kAny:
    case QmpType::kArray:  // of these
      return "any";
  }
  std::unreachable();
}

/// Collects the types that are used, and gives each its name.
class Types {
 public:
  Types() { object({}); }  // the first number is its

  std::string object(const std::vector<QmpArgument>& members, const QmpVariants& variants = {}) {
    ReplyJson json;
    json["members"] = ReplyJson::array();
    for (const QmpArgument& member : members) json["members"].push_back(describe(member));
    if (!variants.tag.empty()) {
      json["tag"] = variants.tag;
      json["variants"] = ReplyJson::array();
      for (const auto& [value, more] : variants.arguments) {
        json["variants"].push_back({{"case", value}, {"type", object(more)}});
      }
    }
    json["meta-type"] = "object";
    return numbered(std::move(json));
  }

  void append_to(ReplyJson& schema) {
    for (ReplyJson& type : types_) schema.push_back(std::move(type));
    for (const std::string& element : arrays_) {
      schema.push_back(
          {{"name", "[" + element + "]"}, {"element-type", element}, {"meta-type", "array"}});
    }
    for (const auto& [name, json_type] : kBuiltins) {
      schema.push_back({{"name", name}, {"json-type", json_type}, {"meta-type", "builtin"}});
    }
  }

 private:
  ReplyJson describe(const QmpArgument& member) {
    ReplyJson json;
    json["name"] = member.name;
    if (member.presence == QmpPresence::kOptional) json["default"] = nullptr;
    json["type"] = type_of(member);
    return json;
  }

  std::string type_of(const QmpArgument& member) {
    std::string name(builtin_of(member.type));
    if (!member.values.empty()) return enumeration(member.values);
    if (member.type != QmpType::kArray) return name;
    arrays_.insert(name);
    return "[" + name + "]";
  }

  std::string enumeration(const std::vector<std::string>& values) {
    ReplyJson json;
    json["members"] = ReplyJson::array();
    for (const std::string& value : values) json["members"].push_back({{"name", value}});
    json["meta-type"] = "enum";
    json["values"] = values;
    return numbered(std::move(json));
  }

  std::string numbered(ReplyJson type) {
    const auto [known, is_new] = numbers_.try_emplace(type.dump(), types_.size());
    std::string name = std::to_string(known->second);
    if (!is_new) return name;
    ReplyJson named{{"name", name}};
    named.update(type);
    types_.push_back(std::move(named));
    return name;
  }

  std::vector<ReplyJson> types_;
  std::map<std::string, size_t> numbers_;  // what a type is -> its place
  std::set<std::string> arrays_;           // their elements
};

ReplyJson describe(const QmpCommand& command, Types& types) {
  ReplyJson json;
  json["name"] = command.name;
  json["ret-type"] = "any";
  json["meta-type"] = "command";
  json["arg-type"] = types.object(command.arguments, command.variants);
  if (!command.features.empty()) json["features"] = command.features;
  return json;
}

}  // namespace

ReplyJson qmp_schema(const QmpCommandTable& commands, std::span<const QmpEvent> events) {
  Types types;
  ReplyJson schema = ReplyJson::array();
  for (const QmpCommand& command : commands.all()) schema.push_back(describe(command, types));
  for (const QmpEvent& event : events) {
    schema.push_back(
        {{"name", event.name}, {"meta-type", "event"}, {"arg-type", types.object(event.data)}});
  }
  types.append_to(schema);
  return schema;
}

}  // namespace rhea::vmm
