// ObjectTable: what users make with -object and object-add, and change while the machine runs.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/graph.h"
#include "util/error.h"
#include "util/main_wait.h"
#include "util/option_reader.h"
#include "vmm/qmp/command.h"

namespace rhea::vmm {

/// An object of the user's.
/// Thread: main, service context, BQL held.
class UserObject {
 public:
  virtual ~UserObject() = default;
  /// Who uses it ("device 'vd0'"), for whoever wants it gone; empty if nobody does.
  virtual std::string user() const = 0;
  /// Before its end, if the user asked for that. Not when the machine ends, whose graph has gone
  /// by then.
  virtual Result<void> retire(Gs&) { return ok(); }
};

/// One property of a type. Its value is read from the options that make an object, too, by the
/// type's make().
struct ObjectProperty {
  std::string_view name;
  QmpType type;
  ReplyJson (*get)(const UserObject& object);
  /// `value` is of the type. Null: fixed once the object is made. Errors: a value out of range;
  /// nothing has changed then.
  Result<void> (*set)(UserObject& object, const Json& value);
};

/// A kind of object.
struct ObjectType {
  std::string_view name;
  std::span<const ObjectProperty> properties;
  /// Takes its options; what it leaves is an error. Errors: theirs, or the host's.
  Result<std::unique_ptr<UserObject>> (*make)(Gs& gs, block::Graph& graph, const std::string& id,
                                              OptionReader& options);

  const ObjectProperty* find(std::string_view property) const noexcept;
};

/// Those there are, in alphabetical order.
std::span<const ObjectType> object_types();
/// Null for a name that no type has.
const ObjectType* find_object_type(std::string_view name) noexcept;

/// The machine's objects, in the order of making.
///
/// Thread: main, service context, BQL held. Owns: the objects. Invariants: ids differ; destroyed
/// after everything that uses one.
class ObjectTable {
 public:
  struct Entry {
    std::string id;
    const ObjectType* type;
    std::unique_ptr<UserObject> object;
  };

  ObjectTable() = default;
  ~ObjectTable();
  ObjectTable(const ObjectTable&) = delete;
  ObjectTable& operator=(const ObjectTable&) = delete;

  /// Whose groups and threads the objects are. Before the first; it outlives every use of the table
  /// but its end.
  void set_graph(block::Graph& graph) { graph_ = &graph; }
  /// An id that belongs to something made elsewhere (a memory backend): no object gets it.
  void reserve(std::string id) { reserved_.insert(std::move(id)); }
  /// Errors: kExists, the id is taken; those of the options; kResource.
  Result<void> add(Gs& gs, const ObjectType& type, std::string id, OptionTree options);
  /// Errors: kNotFound; kBusy, naming the user.
  Result<void> del(Gs& gs, std::string_view id);
  Entry* find(std::string_view id) noexcept;
  std::span<const Entry> entries() const noexcept { return entries_; }

 private:
  block::Graph* graph_ = nullptr;
  std::vector<Entry> entries_;
  std::set<std::string, std::less<>> reserved_;
};

}  // namespace rhea::vmm
