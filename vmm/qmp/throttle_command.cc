#include "vmm/qmp/throttle_command.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "util/bql.h"

namespace rhea::vmm {
namespace {

using block::ThrottleLimit;
using block::ThrottleLimits;

/// The names of ThrottleLimits::Kind here.
constexpr std::array<std::string_view, ThrottleLimits::kKinds> kRates{"bps",  "bps_rd",  "bps_wr",
                                                                      "iops", "iops_rd", "iops_wr"};

std::vector<QmpArgument> arguments_of_command() {
  std::vector<QmpArgument> arguments{{"device", QmpType::kString, QmpPresence::kOptional},
                                     {"id", QmpType::kString, QmpPresence::kOptional}};
  for (const auto rate : kRates) arguments.push_back({std::string(rate), QmpType::kInteger});
  for (const auto rate : kRates) {
    for (const char* suffix : {"_max", "_max_length"}) {
      arguments.push_back({std::string(rate) + suffix, QmpType::kInteger, QmpPresence::kOptional});
    }
  }
  arguments.push_back({"iops_size", QmpType::kInteger, QmpPresence::kOptional});
  arguments.push_back({"group", QmpType::kString, QmpPresence::kOptional});
  return arguments;
}

/// What is not there stays. A negative number is out of every range, like the largest.
void take(const Json& arguments, const std::string& name, uint64_t& value) {
  const auto member = arguments.find(name);
  if (member == arguments.end()) return;
  const bool negative = !member->is_number_unsigned() && member->get<int64_t>() < 0;
  value = negative ? std::numeric_limits<uint64_t>::max() : member->get<uint64_t>();
}

Result<ThrottleLimits> take_limits(const Json& arguments) {
  ThrottleLimits limits;
  for (size_t kind = 0; kind < kRates.size(); ++kind) {
    const std::string rate(kRates[kind]);
    ThrottleLimit& limit = limits.limits[kind];
    take(arguments, rate, limit.average);
    take(arguments, rate + "_max", limit.burst);
    take(arguments, rate + "_max_length", limit.burst_seconds);
  }
  take(arguments, "iops_size", limits.iops_size);
  TRY(limits.check());
  return limits;
}

std::string text_or_empty(const Json& arguments, const char* name) {
  const auto member = arguments.find(name);
  return member == arguments.end() ? std::string() : member->get<std::string>();
}

QmpResult set_throttle(Gs& gs, Storage& storage, const Json& arguments) {
  const std::string device = text_or_empty(arguments, "device");
  const std::string id = text_or_empty(arguments, "id");
  const std::string& name = device.empty() ? id : device;
  if (device.empty() == id.empty()) {
    return QmpError{.description = "Need exactly one of 'device' and 'id'"};
  }
  Disk* disk =
      device.empty() ? storage.disks().find_of_device(id) : storage.disks().find_drive(device);
  if (disk == nullptr) {
    return QmpError{QmpErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name)};
  }
  if (disk->node(gs) == nullptr) {
    return QmpError{.description = fmt::format("Device '{}' has no medium", name)};
  }
  const ThrottleLimits limits = TRY(take_limits(arguments));
  std::optional<std::string> group;
  if (arguments.contains("group")) group = arguments["group"].get<std::string>();
  TRY(storage.disks().set_limits(gs, *disk, group, name, limits));
  return qmp_done();
}

}  // namespace

void append_limits(ReplyJson& json, const block::ThrottleGroup* group) {
  const ThrottleLimits limits = group != nullptr ? group->limits() : ThrottleLimits();
  for (size_t kind = 0; kind < kRates.size(); ++kind) {
    json[std::string(kRates[kind])] = limits.limits[kind].average;
  }
  for (size_t kind = 0; kind < kRates.size(); ++kind) {
    const ThrottleLimit& limit = limits.limits[kind];
    if (limit.burst == 0) continue;
    json[std::string(kRates[kind]) + "_max"] = limit.burst;
    json[std::string(kRates[kind]) + "_max_length"] = limit.burst_seconds;
  }
  if (limits.iops_size != 0) json["iops_size"] = limits.iops_size;
  if (group != nullptr) json["group"] = group->id();
}

void add_throttle_command(QmpCommandTable& table, MainLoop& loop, Storage& storage) {
  table.add({"block_set_io_throttle", arguments_of_command(), [&loop, &storage](const Json& a) {
               bql.assert_held();
               return set_throttle(loop.gs(), storage, a);
             }});
}

}  // namespace rhea::vmm
