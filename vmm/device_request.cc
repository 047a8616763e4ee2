#include "vmm/device_request.h"

#include <array>
#include <ranges>

namespace rhea::vmm {
namespace {

using devices::OnIoError;

/// "auto" is as if it were not given.
Result<std::optional<OnIoError>> take_policy(OptionReader& options, std::string_view key) {
  constexpr std::array<std::string_view, 5> kNames{"auto", "report", "ignore", "stop", "enospc"};
  constexpr std::array kPolicies{OnIoError::kReport, OnIoError::kIgnore, OnIoError::kStop,
                                 OnIoError::kNoSpace};
  // A read needs no space.
  const size_t count = key == "rerror" ? kNames.size() - 1 : kNames.size();
  const auto choice = TRY(options.take_choice(key, std::span(kNames).first(count)));
  if (!choice || *choice == 0) return std::optional<OnIoError>();
  return std::optional(kPolicies[*choice - 1]);
}

Result<std::optional<bool>> take_on_off_auto(OptionReader& options, std::string_view key) {
  constexpr std::array<std::string_view, 3> kNames{"auto", "on", "off"};
  const auto choice = TRY(options.take_choice(key, kNames));
  if (!choice || *choice == 0) return std::optional<bool>();
  return std::optional(*choice == 1);
}

}  // namespace

DeviceRequest::DeviceRequest(const DeviceHost& host, std::string id, std::string path,
                             OptionTree options)
    : host_(host), id_(std::move(id)), path_(std::move(path)), options_(std::move(options)) {}

DeviceRequest::~DeviceRequest() {
  bql.assert_held();
  for (Disk* disk : disks_ | std::views::reverse) {
    host_.storage.disks().detach(host_.loop.gs(), *disk);
  }
}

const std::string& DeviceRequest::add_part(std::string_view name) {
  return parts_.emplace_back(fmt::format("{}/{}", path_, name));
}

std::string DeviceRequest::under_way() const {
  for (const Disk* disk : disks_) {
    if (disk->backend() == nullptr) continue;
    std::string request = host_.storage.graph().oldest_request(host_.loop.gs(), disk->backend());
    if (!request.empty()) return request;
  }
  return {};
}

std::string DeviceRequest::new_bus_name(std::string_view kind) const {
  return id_.empty() ? fmt::format("{}.{}", kind, bus_number_) : id_ + ".0";
}

Result<Disk*> DeviceRequest::take_disk(std::string_view driver, const std::string& qdev,
                                       DiskUse::Medium medium) {
  bql.assert_held();
  const auto drive = TRY(options_.take_string("drive"));
  DiskUse use{.driver = std::string(driver),
              .qdev = qdev,
              .device_id = id_,
              .device_path = path_,
              .medium = medium};
  use.write_cache = TRY(take_on_off_auto(options_, "write-cache"));
  use.on_read_error = TRY(take_policy(options_, "rerror"));
  use.on_write_error = TRY(take_policy(options_, "werror"));
  Disk* disk = TRY(host_.storage.disks().attach(host_.loop.gs(), drive, use));
  disks_.push_back(disk);
  return disk;
}

std::vector<const IoThreadObject*> DeviceRequest::iothreads() const {
  std::vector<const IoThreadObject*> used;
  for (const IoThreadUse& use : iothreads_) used.push_back(&use.iothread());
  return used;
}

void DeviceRequest::now_uses(IoThreadObject* iothread) {
  iothreads_.clear();
  if (iothread != nullptr) iothreads_.emplace_back(*iothread, fmt::format("device '{}'", name()));
}

Result<AioContext*> DeviceRequest::use_iothread(const std::string& id) {
  ObjectTable::Entry* entry = host_.storage.objects().find(id);
  auto* iothread = entry == nullptr ? nullptr : dynamic_cast<IoThreadObject*>(entry->object.get());
  if (iothread == nullptr) return fail(ErrorKind::kNotFound, "Device '{}' not found", id);
  iothreads_.emplace_back(*iothread, fmt::format("device '{}'", name()));
  return &iothread->context();
}

Result<AioContext*> DeviceRequest::take_iothread() {
  const auto id = TRY(options_.take_string("iothread"));
  if (!id) return &host_.loop.block();
  return use_iothread(*id);
}

}  // namespace rhea::vmm
