#include "vmm/qom.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "util/bql.h"
#include "util/parse.h"

namespace rhea::vmm {
namespace {

std::vector<std::string_view> steps_of(std::string_view path) {
  std::vector<std::string_view> steps;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    if (end > 0) steps.push_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return steps;
}

std::optional<FoundNode> descend(const FoundNode& from, std::span<const std::string_view> steps) {
  FoundNode at = from;
  for (const std::string_view step : steps) {
    const auto child = std::ranges::find(at.node->children, step, &QomNode::name);
    if (child == at.node->children.end()) return std::nullopt;
    at.node = &*child;
    at.path += "/" + child->name;
  }
  return at;
}

/// All nodes to which the steps lead, from wherever.
void collect(const FoundNode& from, std::span<const std::string_view> steps,
             std::vector<FoundNode>& found) {
  if (auto at = descend(from, steps)) found.push_back(*std::move(at));
  for (const QomNode& child : from.node->children) {
    collect({.node = &child, .path = from.path + "/" + child.name}, steps, found);
  }
}

/// What the tree calls the types of an object's properties.
std::string_view type_name(QmpType type) {
  switch (type) {
    case QmpType::kString:
      return "string";
    case QmpType::kInteger:
      return "int";
    case QmpType::kNumber:
      return "number";
    case QmpType::kBoolean:
      return "bool";
    case QmpType::kObject:
      return "struct";
    case QmpType::kArray:
      return "list";
    case QmpType::kAny:
      return "any";
  }
  std::unreachable();
}

std::function<QmpResult(const Json&)> setter(const ObjectProperty& property, UserObject& object) {
  if (property.set == nullptr) return nullptr;
  return [&property, &object](const Json& value) -> QmpResult {
    Json named = Json::object();
    named[std::string(property.name)] = value;
    if (auto error = check_arguments({{std::string(property.name), property.type}}, named)) {
      return *std::move(error);
    }
    TRY(property.set(object, value));
    return qmp_done();
  };
}

}  // namespace

QomNode& QomNode::add(QomNode child) {
  children.push_back(std::move(child));
  return children.back();
}

std::expected<FoundNode, QmpError> find_node(const QomNode& root, const std::string& path) {
  const auto steps = steps_of(path);
  const FoundNode start{.node = &root, .path = ""};
  std::vector<FoundNode> found;
  if (!path.starts_with('/')) {
    collect(start, steps, found);
  } else if (auto at = descend(start, steps)) {
    found.push_back(*std::move(at));
  }
  if (found.size() == 1) return std::move(found.front());
  if (found.size() > 1) {
    return std::unexpected(QmpError{.description = fmt::format("Path '{}' is ambiguous", path)});
  }
  return std::unexpected(
      QmpError{QmpErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", path)});
}

QomNode describe_objects(ObjectTable& objects) {
  QomNode container{.name = "objects"};
  for (const ObjectTable::Entry& entry : objects.entries()) {
    QomNode& node = container.add({.name = entry.id, .type = std::string(entry.type->name)});
    for (const ObjectProperty& property : entry.type->properties) {
      node.properties.push_back({.name = std::string(property.name),
                                 .type = std::string(type_name(property.type)),
                                 .value = property.get(*entry.object),
                                 .set = setter(property, *entry.object)});
    }
  }
  return container;
}

ReplyJson property_value(std::string_view type, std::string_view text) {
  if (type == "bool") {
    if (const auto value = parse_bool(text)) return *value;
  } else if (type == "size") {
    if (const auto value = parse_size(text)) return *value;
  } else if (type.starts_with("uint") || type.starts_with("int") || type == "any") {
    if (const auto value = parse_uint(text)) return *value;
  }
  return std::string(text);
}

ReplyJson option_json(std::string_view type, const OptionTree& option) {
  switch (option.kind()) {
    case OptionTree::Kind::kString:
      if (option.written_as() == Scalar::kNumber) return property_value("size", option.text());
      if (option.written_as() == Scalar::kSwitch) return option.text() == "on";
      return property_value(type, option.text());
    case OptionTree::Kind::kList: {
      ReplyJson list = ReplyJson::array();
      for (const OptionTree& element : option.values()) {
        list.push_back(option_json("any", element));
      }
      return list;
    }
    case OptionTree::Kind::kObject: {
      ReplyJson object = ReplyJson::object();
      for (size_t i = 0; i < option.keys().size(); ++i) {
        object[option.keys()[i]] = option_json("any", option.values()[i]);
      }
      return object;
    }
  }
  std::unreachable();
}

}  // namespace rhea::vmm
