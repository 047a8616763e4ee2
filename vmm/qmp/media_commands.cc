#include "vmm/qmp/media_commands.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "util/bql.h"
#include "vmm/image_probe.h"

namespace rhea::vmm {
namespace {

QmpError generic(std::string description) { return {.description = std::move(description)}; }

/// What the commands work on.
struct Media {
  Gs& gs;
  Storage& storage;
  const UserDevices* devices;
};

/// A disk, and what the client called it.
struct Named {
  Disk* disk = nullptr;
  std::string name;
};

bool is_set(const Json& arguments, const char* name) {
  const auto member = arguments.find(name);
  return member != arguments.end() && member->get<bool>();
}

std::optional<std::string> text(const Json& arguments, const char* name) {
  const auto member = arguments.find(name);
  if (member == arguments.end()) return std::nullopt;
  return member->get<std::string>();
}

using Found = std::expected<Named, QmpError>;

/// `device` is a -drive's id, `id` a device's.
Found find(const Media& media, const Json& arguments) {
  const auto device = text(arguments, "device"), id = text(arguments, "id");
  if (device.has_value() == id.has_value()) {
    return std::unexpected(generic("Need exactly one of 'device' and 'id'"));
  }
  const Disks& disks = media.storage.disks();
  const std::string& name = device ? *device : *id;
  Disk* disk = device ? disks.find_drive(name) : disks.find_of_device(name);
  if (disk != nullptr) return Named{disk, name};
  if (id && media.devices != nullptr && media.devices->find(name) != nullptr) {
    return std::unexpected(generic("Device does not have a block device backend"));
  }
  return std::unexpected(
      QmpError{QmpErrorClass::kDeviceNotFound, fmt::format("Device '{}' not found", name)});
}

Result<void> check_removable(const Named& named) {
  if (named.disk->removable()) return ok();
  return fail(ErrorKind::kUnsupported, "Device '{}' is not removable", named.name);
}

/// Errors: kBusy, the guest holds the medium: it has been asked for it.
Result<void> open_tray(const Named& named, DiskTray::Force force) REQUIRES(bql) {
  TRY(check_removable(named));
  DiskTray* tray = named.disk->tray();
  return tray != nullptr ? tray->open(force) : ok();
}

Result<void> close_tray(const Named& named) REQUIRES(bql) {
  TRY(check_removable(named));
  if (DiskTray* tray = named.disk->tray()) tray->close();
  return ok();
}

Result<void> remove_medium(const Media& media, const Named& named) REQUIRES(bql) {
  TRY(check_removable(named));
  const DiskTray* tray = named.disk->tray();
  if (tray != nullptr && tray->position() == TrayPosition::kClosed) {
    return fail(ErrorKind::kBusy, "Tray of device '{}' is not open", named.name);
  }
  return media.storage.disks().remove_medium(media.gs, *named.disk);
}

Result<void> insert_medium(const Media& media, const Named& named, block::NodeRef medium)
    REQUIRES(bql) {
  TRY(check_removable(named));
  const DiskTray* tray = named.disk->tray();
  if (tray != nullptr && tray->position() == TrayPosition::kClosed) {
    return fail(ErrorKind::kBusy, "Tray of the device is not open");
  }
  if (named.disk->node(media.gs) != nullptr) {
    return fail(ErrorKind::kExists, "There already is a medium in the device");
  }
  return media.storage.disks().insert_medium(media.gs, *named.disk, std::move(medium));
}

DiskTray::Force force_of(const Json& arguments) {
  return is_set(arguments, "force") ? DiskTray::Force::kYes : DiskTray::Force::kNo;
}

QmpResult eject(const Media& media, const Named& named, const Json& arguments) REQUIRES(bql) {
  TRY(open_tray(named, force_of(arguments)));
  TRY(remove_medium(media, named));
  return qmp_done();
}

QmpResult blockdev_open_tray(const Media&, const Named& named, const Json& arguments)
    REQUIRES(bql) {
  const auto opened = open_tray(named, force_of(arguments));
  // The guest has been asked: its tray moves later.
  if (!opened && opened.error().kind() != ErrorKind::kBusy) return opened.error();
  return qmp_done();
}

QmpResult blockdev_close_tray(const Media&, const Named& named, const Json&) REQUIRES(bql) {
  TRY(close_tray(named));
  return qmp_done();
}

QmpResult blockdev_remove_medium(const Media& media, const Named& named, const Json&)
    REQUIRES(bql) {
  TRY(remove_medium(media, named));
  return qmp_done();
}

QmpResult blockdev_insert_medium(const Media& media, const Named& named, const Json& arguments)
    REQUIRES(bql) {
  const auto name = arguments["node-name"].get<std::string>();
  block::Node* node = media.storage.graph().find(media.gs, name);
  if (node == nullptr) return generic(fmt::format("Node '{}' not found", name));
  const auto disks = media.storage.disks().all();
  if (std::ranges::any_of(disks, [&](const auto& d) { return d->node(media.gs) == node; })) {
    return generic(fmt::format("Node '{}' is already in use", name));
  }
  TRY(insert_medium(media, named, block::NodeRef(*node)));
  return qmp_done();
}

/// Whether the new medium is opened for reading only: as the last one was, if nobody says.
Result<bool> take_read_only(const Media& media, const Named& named, const Json& arguments) {
  const std::string mode = text(arguments, "read-only-mode").value_or("retain");
  if (mode == "read-only") return true;
  if (mode == "read-write") return false;
  if (mode != "retain") {
    return fail(ErrorKind::kInvalidArgument,
                "Parameter 'read-only-mode' does not accept value '{}'", mode);
  }
  const block::Node* node = named.disk->node(media.gs);
  return node == nullptr || node->read_only();
}

QmpResult blockdev_change_medium(const Media& media, const Named& named, const Json& arguments)
    REQUIRES(bql) {
  const bool read_only = TRY(take_read_only(media, named, arguments));
  // While the old one is still there: a name that is wrong changes nothing.
  block::NodeRef medium =
      TRY(open_image(media.gs, media.storage.graph(), arguments["filename"].get<std::string>(),
                     text(arguments, "format"), read_only));
  TRY(open_tray(named, force_of(arguments)));
  TRY(remove_medium(media, named));
  TRY(insert_medium(media, named, std::move(medium)));
  TRY(close_tray(named));
  return qmp_done();
}

}  // namespace

ReplyJson tray_json(const Disk& disk, TrayPosition to) {
  return {
      {"device", disk.drive_id()}, {"id", disk.qdev()}, {"tray-open", to == TrayPosition::kOpen}};
}

void add_media_commands(QmpCommandTable& table, MainLoop& loop, Storage& storage,
                        const UserDevices* devices) {
  using Function = QmpResult (*)(const Media&, const Named&, const Json&);
  const auto add = [&](const char* name, std::vector<QmpArgument> more, Function function) {
    std::vector<QmpArgument> arguments{{"device", QmpType::kString, QmpPresence::kOptional},
                                       {"id", QmpType::kString, QmpPresence::kOptional}};
    std::ranges::move(more, std::back_inserter(arguments));
    table.add({name, std::move(arguments),
               [&loop, &storage, devices, function](const Json& a) -> QmpResult {
                 bql.assert_held();
                 const Media media{loop.gs(), storage, devices};
                 const Found found = find(media, a);
                 return found ? function(media, *found, a) : found.error();
               }});
  };
  const QmpArgument force{"force", QmpType::kBoolean, QmpPresence::kOptional};
  add("eject", {force}, eject);
  add("blockdev-open-tray", {force}, blockdev_open_tray);
  add("blockdev-close-tray", {}, blockdev_close_tray);
  add("blockdev-remove-medium", {}, blockdev_remove_medium);
  add("blockdev-insert-medium", {{"node-name", QmpType::kString}}, blockdev_insert_medium);
  add("blockdev-change-medium",
      {{"filename", QmpType::kString},
       {"format", QmpType::kString, QmpPresence::kOptional},
       force,
       {"read-only-mode", QmpType::kString, QmpPresence::kOptional}},
      blockdev_change_medium);
}

}  // namespace rhea::vmm
