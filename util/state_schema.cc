#include "util/state_schema.h"

#include <fmt/format.h>

#include <algorithm>

#include "util/check.h"

namespace rhea {

std::string StateSchema::exactly(size_t count) { return fmt::format("[{}]", count); }
std::string StateSchema::up_to(size_t count) { return fmt::format("[..{}]", count); }

void StateSchema::add(std::string_view name, StateType type, std::string_view bound) {
  std::vector<std::string>& names = names_.back();
  RHEA_CHECK(!name.empty() && name.size() <= kMaxStateName, "field '{}'", name);
  RHEA_CHECK(std::ranges::find(names, name) == names.end(), "two fields '{}'", name);
  if (!names.empty()) text_ += ", ";
  names.emplace_back(name);
  text_ += fmt::format("{} {}{}", name, to_string(type), bound);
}

void StateSchema::open() {
  names_.emplace_back();
  RHEA_CHECK(names_.size() <= kMaxStateDepth, "a struct that contains itself?");
  text_ += '{';
}

void StateSchema::close() {
  names_.pop_back();
  text_ += '}';
}

}  // namespace rhea
