// -blockdev and -drive. A -drive is short for a tree of nodes and how a device uses it; this file
// spells it out.
#include <algorithm>
#include <array>

#include "block/filename.h"
#include "vmm/image_probe.h"
#include "vmm/internal/cli.h"

namespace rhea::vmm::cli {
namespace {

using devices::OnIoError;

/// cache=: the host's page cache, flushes, and the write cache that the guest sees.
struct CacheMode {
  std::string_view name;
  bool direct, no_flush, write_cache;
};
constexpr std::array kCacheModes{
    CacheMode{"none", true, false, true},        CacheMode{"off", true, false, true},
    CacheMode{"writeback", false, false, true},  CacheMode{"writethrough", false, false, false},
    CacheMode{"directsync", true, false, false}, CacheMode{"unsafe", false, true, true},
};

struct PolicyName {
  std::string_view name;
  OnIoError policy;
};
constexpr std::array kPolicies{
    PolicyName{"ignore", OnIoError::kIgnore}, PolicyName{"report", OnIoError::kReport},
    PolicyName{"stop", OnIoError::kStop}, PolicyName{"enospc", OnIoError::kNoSpace}};

OptionTree on_off(bool on) { return OptionTree::string(on ? "on" : "off"); }

/// What -drive says, taken apart.
struct DriveOptions {
  std::optional<std::string> file, format;
  std::optional<std::string> aio;
  OptionTree node;  ///< all that is the node's own, file.KEY= included
};

/// `file=NAME` and `file.KEY=` may stand side by side here, unlike anywhere else: the name is moved
/// to a key of its own.
std::string split_file_name(std::string_view text) {
  constexpr std::string_view kFile = "file=";
  std::string out;
  for (bool item_begins = true; !text.empty();) {
    if (item_begins && text.starts_with(kFile)) {
      out += "filename=";
      text.remove_prefix(kFile.size());
    }
    const bool doubled = text.starts_with(",,");
    item_begins = text.starts_with(',') && !doubled;
    const size_t taken = doubled ? 2 : 1;
    out += text.substr(0, std::min(taken, text.size()));
    text.remove_prefix(std::min(taken, text.size()));
  }
  return out;
}

/// cache=MODE, and cache.direct= and its like over it.
Result<void> take_cache(OptionReader& reader, DriveConfig& drive, OptionTree& node) {
  CacheMode mode = kCacheModes[2];
  if (reader.is_string("cache")) {
    const std::string name = TRY(reader.take_required("cache"));
    const auto row = std::ranges::find(kCacheModes, name, &CacheMode::name);
    if (row == kCacheModes.end()) {
      return fail(ErrorKind::kInvalidArgument, "invalid cache option");
    }
    mode = *row;
  } else if (auto cache = TRY(reader.take_object("cache"))) {
    mode.write_cache = TRY(cache->take_bool("writeback")).value_or(mode.write_cache);
    mode.direct = TRY(cache->take_bool("direct")).value_or(mode.direct);
    mode.no_flush = TRY(cache->take_bool("no-flush")).value_or(mode.no_flush);
    TRY(cache->finish());
  }
  drive.write_cache = mode.write_cache;
  OptionTree& cache = node.set("cache", OptionTree());
  cache.set("direct", on_off(mode.direct));
  cache.set("no-flush", on_off(mode.no_flush));
  return ok();
}

Result<std::optional<OnIoError>> take_policy(OptionReader& reader, std::string_view key,
                                             std::string_view what) {
  const auto name = TRY(reader.take_string(key));
  if (!name) return std::optional<OnIoError>();
  const auto row = std::ranges::find(kPolicies, *name, &PolicyName::name);
  const bool is_read = key == "rerror";
  if (row == kPolicies.end() || (is_read && row->policy == OnIoError::kNoSpace)) {
    return fail(ErrorKind::kInvalidArgument, "'{}' invalid {} error action", *name, what);
  }
  return std::optional(row->policy);
}

/// What QEMU has and this machine has not: only the values that ask for nothing are taken.
Result<void> take_unsupported(OptionReader& reader) {
  for (const char* key : {"snapshot", "copy-on-read"}) {
    if (TRY(reader.take_bool(key)).value_or(false)) {
      return fail(ErrorKind::kUnsupported, "'{}' can only be off", key);
    }
  }
  if (TRY(reader.take_string("detect-zeroes")).value_or("off") != "off") {
    return fail(ErrorKind::kUnsupported, "'detect-zeroes' can only be off");
  }
  return ok();
}

Result<void> take_read_only(OptionReader& reader, OptionTree& node) {
  auto read_only = TRY(reader.take_bool("readonly"));
  if (const auto same = TRY(reader.take_bool("read-only"))) read_only = same;
  constexpr std::array<std::string_view, 2> kMedia{"disk", "cdrom"};
  if (const auto media = TRY(reader.take_string("media"))) {
    if (std::ranges::find(kMedia, *media) == kMedia.end()) {
      return fail(ErrorKind::kInvalidArgument, "'{}' invalid media", *media);
    }
    if (*media == "cdrom") read_only = true;
  }
  if (read_only) node.set("read-only", on_off(*read_only));
  return ok();
}

Result<void> take_discard(OptionReader& reader, OptionTree& node) {
  const auto discard = TRY(reader.take_string("discard"));
  if (!discard) return ok();
  constexpr std::array<std::string_view, 4> kWords{"ignore", "off", "unmap", "on"};
  if (std::ranges::find(kWords, *discard) == kWords.end()) {
    return fail(ErrorKind::kInvalidArgument, "Invalid discard option");
  }
  node.set("discard", OptionTree::string(*discard));
  return ok();
}

/// Where it is plugged in: if=, and index=, or bus= and unit=, of which there is one of each here.
Result<DriveUse> take_place(Draft& draft, OptionReader& reader) {
  DriveUse use{.is_virtio = true};
  const std::string type = TRY(reader.take_string("if")).value_or("virtio");
  constexpr std::array<std::string_view, 7> kElsewhere{"ide", "scsi", "floppy", "pflash",
                                                       "mtd", "sd",   "xen"};
  if (std::ranges::find(kElsewhere, type) != kElsewhere.end()) {
    return fail(ErrorKind::kUnsupported,
                "machine type does not support if={}: only if=virtio and if=none", type);
  }
  if (type != "virtio" && type != "none") {
    return fail(ErrorKind::kInvalidArgument, "unsupported bus type '{}'", type);
  }
  use.is_virtio = type == "virtio";
  const auto index = TRY(reader.take_uint("index"));
  const auto bus = TRY(reader.take_uint("bus"));
  const auto unit = TRY(reader.take_uint("unit"));
  if (index && (bus || unit)) {
    return fail(ErrorKind::kInvalidArgument, "index cannot be used with bus and unit");
  }
  const auto taken = [&](uint64_t at) {
    return std::ranges::any_of(draft.drives, [&](const DriveUse& other) {
      return other.is_virtio == use.is_virtio && other.index == at;
    });
  };
  // A bus of virtio disks has one unit, so that their buses are numbered, and nothing else is.
  while (taken(use.index)) ++use.index;
  if (index || bus) use.index = index ? *index : *bus;
  if (taken(use.index)) {
    return fail(ErrorKind::kExists, "drive with bus={0}, unit=0 (index={0}) exists", use.index);
  }
  return use;
}

/// The node below the format: what file= names, and file.KEY= over it.
Result<OptionTree> file_node(DriveOptions& options) {
  OptionTree file;
  if (options.file) file = TRY(block::parse_filename(*options.file));
  if (options.node.find("file") != nullptr) {
    OptionTree said = options.node.take("file");
    if (said.is_object()) file.merge(std::move(said));
  }
  if (options.aio) {
    constexpr std::array<std::string_view, 3> kAio{"threads", "native", "io_uring"};
    if (std::ranges::find(kAio, *options.aio) == kAio.end()) {
      return fail(ErrorKind::kInvalidArgument, "invalid aio option");
    }
    file.set("aio", OptionTree::string(*options.aio));
  }
  return file;
}

/// The tree: a format over the file, or the file alone if its driver is what `format` says.
Result<std::optional<OptionTree>> drive_node(DriveOptions& options, DriveConfig& drive) {
  const bool has_file = options.file || options.node.find("file") != nullptr;
  if (!has_file && !options.format) return std::optional<OptionTree>();
  OptionTree node;
  if (options.format && is_protocol(*options.format)) {
    if (has_file) {
      node = TRY(file_node(options));
      const OptionTree* driver = node.find("driver");
      if (driver != nullptr && driver->text() != *options.format) {
        return fail(ErrorKind::kInvalidArgument, "the file is of driver '{}', not '{}'",
                    driver->text(), *options.format);
      }
    }
    node.set("driver", OptionTree::string(*options.format));
  } else {
    if (!options.format) drive.probed_file = options.file.value_or(drive.id);
    node.set("driver", OptionTree::string(options.format.value_or("raw")));
    if (has_file) node.set("file", TRY(file_node(options)));
  }
  node.merge(std::move(options.node));
  return std::optional(std::move(node));
}

Result<DriveOptions> take_drive_options(OptionReader& reader, DriveConfig& drive) {
  DriveOptions options;
  options.file = TRY(reader.take_string("filename"));
  if (options.file && options.file->empty()) {
    return fail(ErrorKind::kInvalidArgument, "A block device must be specified for \"file\"");
  }
  options.format = TRY(reader.take_string("format"));
  if (auto driver = TRY(reader.take_string("driver"))) {
    if (options.format) {
      return fail(ErrorKind::kInvalidArgument, "Cannot specify both 'driver' and 'format'");
    }
    options.format = std::move(driver);
  }
  options.aio = TRY(reader.take_string("aio"));
  TRY(take_cache(reader, drive, options.node));
  TRY(take_read_only(reader, options.node));
  TRY(take_discard(reader, options.node));
  TRY(take_unsupported(reader));
  options.node.merge(reader.take_rest());
  return options;
}

}  // namespace

Result<void> on_blockdev(Draft& draft, const Given& given) {
  if (given.value == "help" || given.value == "?") {
    return fail(ErrorKind::kInvalidArgument, "Help is not available for this option");
  }
  OptionTree options = TRY(parse_options(given.value, {.implied_key = "driver"}));
  draft.config.blockdevs.push_back({std::move(options), given.origin()});
  return ok();
}

Result<void> on_drive(Draft& draft, const Given& given) {
  OptionReader reader(TRY(parse_keyval(split_file_name(given.value))));
  DriveConfig drive;
  drive.origin = given.origin();
  const DriveUse use = TRY(take_place(draft, reader));
  drive.id = TRY(reader.take_identifier("id"))
                 .value_or(fmt::format("{}{}", use.is_virtio ? "virtio" : "none", use.index));
  if (std::ranges::find(draft.config.drives, drive.id, &DriveConfig::id) !=
      draft.config.drives.end()) {
    return fail(ErrorKind::kExists, "Duplicate ID '{}' for drive", drive.id);
  }
  drive.on_write_error = TRY(take_policy(reader, "werror", "write"));
  drive.on_read_error = TRY(take_policy(reader, "rerror", "read"));
  DriveOptions options = TRY(take_drive_options(reader, drive));
  drive.node = TRY(drive_node(options, drive));
  if (use.is_virtio && !drive.node) {
    return fail(ErrorKind::kInvalidArgument, "Device needs media, but drive is empty");
  }
  draft.config.drives.push_back(std::move(drive));
  draft.drives.push_back(use);
  return ok();
}

void finish_drives(Draft& draft) {
  for (size_t i = 0; i < draft.drives.size(); ++i) {
    if (!draft.drives[i].is_virtio) continue;
    const DriveConfig& drive = draft.config.drives[i];
    OptionTree options;
    options.set("drive", OptionTree::string(drive.id));
    draft.config.devices.push_back({"virtio-blk-pci", "", std::move(options), drive.origin});
  }
}

}  // namespace rhea::vmm::cli
