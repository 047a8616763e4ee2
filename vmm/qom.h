// The tree of objects as a client walks it: /machine/peripheral/vd0, /objects/io0.
//
// There is no such tree at rest. Whoever owns objects describes them as nodes when a client asks,
// so nothing has to be kept in step with devices that come and go.
#pragma once

#include <expected>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/device_table.h"
#include "vmm/object_table.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// One property of an object in the tree.
struct QomProperty {
  std::string name, type;
  ReplyJson value;
  /// Null: it can not be changed. The value it gets has not been checked.
  std::function<QmpResult(const Json& value)> set{};
};

/// An object in the tree, or a container of some.
struct QomNode {
  std::string name;
  std::string type = "container";
  std::vector<QomProperty> properties{};
  std::vector<QomNode> children{};

  QomNode& add(QomNode child);
};

struct FoundNode {
  const QomNode* node;
  std::string path;  ///< absolute, without a '/' at its end
};
/// What `path` names below `root`: absolute, or its last steps, if only one object's path ends so.
/// Errors: QEMU's.
std::expected<FoundNode, QmpError> find_node(const QomNode& root, const std::string& path);

/// "/objects": what the user made with -object and object-add. `objects` outlives the node.
QomNode describe_objects(ObjectTable& objects);

/// A property's value given as text, as JSON of its type; of "any", a number if it looks like one.
ReplyJson property_value(std::string_view type, std::string_view text);
/// An option as JSON; a scalar of a property of this type.
ReplyJson option_json(std::string_view type, const OptionTree& option);

}  // namespace rhea::vmm
