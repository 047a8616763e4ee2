#include "vmm/object_table.h"

#include <algorithm>
#include <array>

#include "vmm/iothread_object.h"
#include "vmm/throttle_group_object.h"

namespace rhea::vmm {

std::span<const ObjectType> object_types() {
  static const std::array types{
      ObjectType{IoThreadObject::kType, IoThreadObject::properties(), IoThreadObject::create},
      ObjectType{ThrottleGroupObject::kType, ThrottleGroupObject::properties(),
                 ThrottleGroupObject::create},
  };
  return types;
}

const ObjectType* find_object_type(std::string_view name) noexcept {
  const auto types = object_types();
  const auto row = std::ranges::find(types, name, &ObjectType::name);
  return row == types.end() ? nullptr : &*row;
}

const ObjectProperty* ObjectType::find(std::string_view property) const noexcept {
  const auto row = std::ranges::find(properties, property, &ObjectProperty::name);
  return row == properties.end() ? nullptr : &*row;
}

ObjectTable::~ObjectTable() {
  // The last made first: it may use an earlier one.
  while (!entries_.empty()) {
    entries_.pop_back();
  }
}

ObjectTable::Entry* ObjectTable::find(std::string_view id) noexcept {
  const auto entry = std::ranges::find(entries_, id, &Entry::id);
  return entry == entries_.end() ? nullptr : &*entry;
}

Result<void> ObjectTable::add(Gs& gs, const ObjectType& type, std::string id, OptionTree options) {
  if (find(id) != nullptr || reserved_.contains(id)) {
    return fail(ErrorKind::kExists, "Duplicate ID '{}' for object", id);
  }
  OptionReader reader(std::move(options));
  auto object = TRY(type.make(gs, *graph_, id, reader));
  TRY(reader.finish());
  entries_.push_back({std::move(id), &type, std::move(object)});
  return ok();
}

Result<void> ObjectTable::del(Gs& gs, std::string_view id) {
  const auto entry = std::ranges::find(entries_, id, &Entry::id);
  if (entry == entries_.end()) return fail(ErrorKind::kNotFound, "object '{}' not found", id);
  if (const std::string user = entry->object->user(); !user.empty()) {
    return fail(ErrorKind::kBusy, "object '{}' is in use, can not be deleted: {} uses it", id,
                user);
  }
  TRY(entry->object->retire(gs));
  entries_.erase(entry);
  return ok();
}

}  // namespace rhea::vmm
