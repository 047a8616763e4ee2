#include "vmm/throttle_group_object.h"

#include <array>
#include <utility>

#include "util/bql.h"
#include "vmm/qmp/json_options.h"

namespace rhea::vmm {
namespace {

using block::ThrottleLimit;
using block::ThrottleLimits;

/// The names of ThrottleLimits::Kind.
constexpr std::array<std::string_view, ThrottleLimits::kKinds> kNames{
    "bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"};

ReplyJson get_limits(const UserObject& object) {
  const ThrottleLimits limits = static_cast<const ThrottleGroupObject&>(object).group().limits();
  ReplyJson json;
  for (size_t kind = 0; kind < kNames.size(); ++kind) {
    const std::string name(kNames[kind]);
    const ThrottleLimit& limit = limits.limits[kind];
    json[name] = limit.average;
    json[name + "-max"] = limit.burst;
    json[name + "-max-length"] = limit.burst_seconds;
  }
  json["iops-size"] = limits.iops_size;
  return json;
}

/// What `value` does not name stays as it is.
Result<void> set_limits(UserObject& object, const Json& value) {
  auto& throttle = static_cast<ThrottleGroupObject&>(object);
  Json merged = Json::object();
  const ReplyJson now = get_limits(object);
  for (const auto& [name, limit] : now.items()) merged[name] = limit.get<uint64_t>();
  for (const auto& [name, limit] : value.items()) merged[name] = limit;
  Json options = Json::object();
  options["limits"] = std::move(merged);
  OptionReader reader(TRY(json_options(options)));
  const ThrottleLimits limits = TRY(ThrottleLimits::take(reader));
  TRY(reader.finish());
  throttle.group().set_limits(throttle.gs(), limits);
  return ok();
}

constexpr std::array kProperties{
    ObjectProperty{"limits", QmpType::kObject, get_limits, set_limits}};

}  // namespace

std::span<const ObjectProperty> ThrottleGroupObject::properties() { return kProperties; }

Gs& ThrottleGroupObject::gs() const {
  bql.assert_held();
  return graph_.loop().gs();
}

Result<std::unique_ptr<UserObject>> ThrottleGroupObject::create(Gs& gs, block::Graph& graph,
                                                                const std::string& id,
                                                                OptionReader& options) {
  const ThrottleLimits limits = TRY(ThrottleLimits::take(options));
  TRY(options.finish());  // before the graph has the group
  block::ThrottleGroup* group = TRY(graph.throttle_groups().add(gs, id, limits));
  return std::unique_ptr<UserObject>(new ThrottleGroupObject(graph, *group));
}

std::string ThrottleGroupObject::user() const { return group_.in_use(gs()) ? "a node" : ""; }

Result<void> ThrottleGroupObject::retire(Gs& gs) {
  return graph_.throttle_groups().remove(gs, group_.id());
}

}  // namespace rhea::vmm
