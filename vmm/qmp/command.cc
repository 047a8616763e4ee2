#include "vmm/qmp/command.h"

#include <algorithm>
#include <utility>

namespace rhea::vmm {

namespace {

bool is_of(QmpType type, const Json& value) {
  switch (type) {
    case QmpType::kString:
      return value.is_string();
    case QmpType::kInteger:
      return value.is_number_integer();
    case QmpType::kNumber:
      return value.is_number();
    case QmpType::kBoolean:
      return value.is_boolean();
    case QmpType::kObject:
      return value.is_object();
    case QmpType::kArray:
      return value.is_array();
    case QmpType::kAny:
      return true;
  }
  std::unreachable();
}

std::string_view to_string(QmpType type) {
  switch (type) {
    case QmpType::kString:
      return "string";
    case QmpType::kInteger:
      return "integer";
    case QmpType::kNumber:
      return "number";
    case QmpType::kBoolean:
      return "boolean";
    case QmpType::kObject:
      return "object";
    case QmpType::kArray:
      return "array";
    case QmpType::kAny:
      return "any value";
  }
  std::unreachable();
}

}  // namespace

std::string_view to_string(QmpErrorClass error_class) noexcept {
  switch (error_class) {
    case QmpErrorClass::kGenericError:
      return "GenericError";
    case QmpErrorClass::kCommandNotFound:
      return "CommandNotFound";
    case QmpErrorClass::kDeviceNotActive:
      return "DeviceNotActive";
    case QmpErrorClass::kDeviceNotFound:
      return "DeviceNotFound";
    case QmpErrorClass::kKvmMissingCap:
      return "KVMMissingCap";
  }
  std::unreachable();
}

std::optional<QmpError> check_arguments(const std::vector<QmpArgument>& schema,
                                        const Json& arguments, QmpShape shape) {
  for (const QmpArgument& argument : schema) {
    const auto member = arguments.find(argument.name);
    if (member == arguments.end()) {
      if (argument.presence == QmpPresence::kOptional) continue;
      return QmpError{.description = fmt::format("Parameter '{}' is missing", argument.name)};
    }
    if (!is_of(argument.type, *member)) {
      return QmpError{.description = fmt::format("Invalid parameter type for '{}', expected: {}",
                                                 argument.name, to_string(argument.type))};
    }
    if (argument.values.empty()) continue;
    const auto& value = member->get_ref<const std::string&>();
    if (std::ranges::find(argument.values, value) == argument.values.end()) {
      return QmpError{.description = fmt::format("Parameter '{}' does not accept value '{}'",
                                                 argument.name, value)};
    }
  }
  if (shape == QmpShape::kAny) return std::nullopt;
  for (const auto& [name, value] : arguments.items()) {
    if (std::ranges::find(schema, name, &QmpArgument::name) == schema.end()) {
      return QmpError{.description = fmt::format("Parameter '{}' is unexpected", name)};
    }
  }
  return std::nullopt;
}

QmpResult QmpCommand::run(const Json& given, NamedFds& fds) const {
  std::vector<QmpArgument> schema = arguments;
  if (const auto tag = given.find(variants.tag); tag != given.end() && tag->is_string()) {
    const auto variant = variants.arguments.find(tag->get_ref<const std::string&>());
    if (variant != variants.arguments.end()) {
      schema.insert(schema.end(), variant->second.begin(), variant->second.end());
    }
  }
  if (auto error = check_arguments(schema, given, shape)) return *std::move(error);
  return handler(given, fds);
}

QmpResult QmpCommand::run(const Json& given) const {
  NamedFds none;
  return run(given, none);
}

void QmpCommandTable::add(QmpCommand command) {
  std::string name = command.name;
  const bool added = commands_.emplace(std::move(name), std::move(command)).second;
  RHEA_CHECK(added, "a QMP command is there twice");
}

void QmpCommandTable::guard(std::span<const std::string_view> names, const Guard& guard) {
  for (const std::string_view name : names) {
    const auto at = commands_.find(name);
    RHEA_CHECK(at != commands_.end(), "there is no command {} to guard", name);
    at->second.handler = [name, guard, handler = std::move(at->second.handler)](
                             const Json& arguments, NamedFds& fds) -> QmpResult {
      TRY(guard(name));
      return handler(arguments, fds);
    };
  }
}

const QmpCommand* QmpCommandTable::find(std::string_view name) const {
  const auto found = commands_.find(name);
  return found == commands_.end() ? nullptr : &found->second;
}

}  // namespace rhea::vmm
