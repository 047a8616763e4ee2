#include "migration/manifest.h"

#include <algorithm>
#include <ranges>
#include <string>
#include <string_view>

namespace rhea::migration {
namespace {

template <class T>
Result<void> check_equal(std::string_view what, const T& ours, const T& theirs) {
  if (ours == theirs) return ok();
  return fail(ErrorKind::kInvalidArgument, "The {} differs: {} there, {} here", what, theirs, ours);
}

const RamInfo* find(const std::vector<RamInfo>& all, const RamInfo& wanted) {
  const auto found = std::ranges::find(all, wanted.name, &RamInfo::name);
  return found == all.end() ? nullptr : &*found;
}

const DeviceInfo* find(const std::vector<DeviceInfo>& all, const DeviceInfo& wanted) {
  const auto found = std::ranges::find(all, wanted.path, &DeviceInfo::path);
  return found == all.end() ? nullptr : &*found;
}

template <class T, class Member>
Result<void> check_unique(std::string_view what, const std::vector<T>& all, Member name) {
  std::vector<std::string_view> names;
  for (const T& one : all) names.push_back(one.*name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice == names.end()) return ok();
  return fail(ErrorKind::kInvalidArgument, "There are two {} with the name '{}' there", what,
              *twice);
}

Result<void> check_ram(const std::vector<RamInfo>& ours, const std::vector<RamInfo>& theirs) {
  TRY(check_unique("RAM blocks", theirs, &RamInfo::name));
  for (const RamInfo& block : theirs) {
    const RamInfo* mine = find(ours, block);
    if (mine == nullptr)
      return fail(ErrorKind::kInvalidArgument, "There is no RAM block '{}' here", block.name);
    if (mine->size_bytes != block.size_bytes)
      return fail(ErrorKind::kInvalidArgument, "Size mismatch: {}: {:#x} != {:#x}", block.name,
                  block.size_bytes, mine->size_bytes);
  }
  for (const RamInfo& block : ours)
    if (find(theirs, block) == nullptr)
      return fail(ErrorKind::kInvalidArgument, "There is no RAM block '{}' there", block.name);
  return ok();
}

/// The words of `settings` that are not among those of `others`.
std::string words_not_in(std::string_view others, std::string_view settings) {
  std::string missing;
  for (const auto part : std::views::split(settings, ' ')) {
    const std::string_view word(part.begin(), part.end());
    const auto is_word = [word](const auto& other) { return std::ranges::equal(other, word); };
    if (std::ranges::any_of(std::views::split(others, ' '), is_word)) continue;
    missing += fmt::format("{}{}", missing.empty() ? "" : " ", word);
  }
  return missing.empty() ? "nothing" : missing;
}

Result<void> check_device(const DeviceInfo& mine, const DeviceInfo& theirs) {
  if (mine.kind != theirs.kind)
    return fail(ErrorKind::kInvalidArgument, "Device '{}' is a {} there, a {} here", mine.path,
                theirs.kind, mine.kind);
  if (mine.version != theirs.version)
    return fail(ErrorKind::kInvalidArgument, "Device '{}' ({}) has version {} there, {} here",
                mine.path, mine.kind, theirs.version, mine.version);
  if (mine.schema_crc32c != theirs.schema_crc32c)
    return fail(ErrorKind::kInvalidArgument, "Device '{}' ({}) has other fields there than here",
                mine.path, mine.kind);
  if (mine.settings != theirs.settings)
    return fail(ErrorKind::kInvalidArgument, "Device '{}' ({}) has {} there, {} here", mine.path,
                mine.kind, words_not_in(mine.settings, theirs.settings),
                words_not_in(theirs.settings, mine.settings));
  return ok();
}

Result<void> check_devices(const std::vector<DeviceInfo>& ours,
                           const std::vector<DeviceInfo>& theirs) {
  TRY(check_unique("devices", theirs, &DeviceInfo::path));
  for (const DeviceInfo& device : theirs) {
    const DeviceInfo* mine = find(ours, device);
    if (mine == nullptr)
      return fail(ErrorKind::kInvalidArgument, "There is no device '{}' ({}) here", device.path,
                  device.kind);
    TRY(check_device(*mine, device));
  }
  for (const DeviceInfo& device : ours)
    if (find(theirs, device) == nullptr)
      return fail(ErrorKind::kInvalidArgument, "There is no device '{}' ({}) there", device.path,
                  device.kind);
  return ok();
}

}  // namespace

Result<void> check_same_machine(const Manifest& ours, const Manifest& theirs, CompareUuid uuid) {
  TRY(check_equal("version of the stream", ours.stream_version, theirs.stream_version));
  TRY(check_equal("machine", ours.machine, theirs.machine));
  TRY(check_equal("accelerator", ours.accelerator, theirs.accelerator));
  TRY(check_equal("number of CPUs", ours.cpus, theirs.cpus));
  if (uuid == CompareUuid::kYes) TRY(check_equal("UUID", ours.uuid, theirs.uuid));
  TRY(check_ram(ours.ram, theirs.ram));
  return check_devices(ours.devices, theirs.devices);
}

}  // namespace rhea::migration
