// What "info" shows, from the answers of QMP's queries.
#include <array>
#include <utility>

#include "vmm/hmp/rows.h"

namespace rhea::vmm::hmp {
namespace {

constexpr auto kOptional = QmpPresence::kOptional;

std::string text_of(const ReplyJson& json, const char* member) {
  const auto at = json.find(member);
  return at != json.end() && at->is_string() ? at->get<std::string>() : std::string();
}

bool is_set(const ReplyJson& json, const char* member) {
  const auto at = json.find(member);
  return at != json.end() && at->is_boolean() && at->get<bool>();
}

uint64_t number_of(const ReplyJson& json, const char* member) {
  return json.at(member).get<uint64_t>();
}

/// Makes text of what a query answers.
template <class F>
Output shown(const QmpResult& answer, F&& show) {
  if (!answer.has_value()) return std::unexpected(answer.error());
  return show(*answer);
}

template <class F>
Output each(const QmpResult& answer, F&& show) {
  return shown(answer, [&](const ReplyJson& list) {
    std::string text;
    for (const ReplyJson& row : list) text += show(row);
    return text;
  });
}

std::string cache_text(const ReplyJson& cache) {
  return fmt::format("    Cache mode:       {}{}{}\n",
                     is_set(cache, "writeback") ? "writeback" : "writethrough",
                     is_set(cache, "direct") ? ", direct" : "",
                     is_set(cache, "no-flush") ? ", ignore flushes" : "");
}

std::string throttle_text(const ReplyJson& medium) {
  constexpr std::array kRates{"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
  std::string text;
  bool limited = false;
  for (const char* rate : kRates) {
    limited = limited || number_of(medium, rate) != 0;
    text += fmt::format(" {}={}", rate, number_of(medium, rate));
  }
  if (!limited) return "";
  return fmt::format("    I/O throttling:  {} group={}\n", text, text_of(medium, "group"));
}

std::string image_text(const ReplyJson& image) {
  return fmt::format("\nImages:\nimage: {}\nfile format: {}\nvirtual size: {} bytes\n",
                     text_of(image, "filename"), text_of(image, "format"),
                     number_of(image, "virtual-size"));
}

std::string medium_title(const ReplyJson& medium) {
  return fmt::format(": {} ({}{})\n", text_of(medium, "file"), text_of(medium, "drv"),
                     is_set(medium, "ro") ? ", read-only" : "");
}

/// "drive0 (node0)", "node0", or what is left of it.
std::string disk_title(const ReplyJson& disk, const ReplyJson& medium) {
  const std::string device = text_of(disk, "device");
  const std::string node = medium.is_null() ? "" : text_of(medium, "node-name");
  if (device.empty()) return node.empty() ? "<anonymous>" : node;
  return node.empty() ? device : fmt::format("{} ({})", device, node);
}

std::string disk_text(const ReplyJson& disk, bool verbose) {
  const ReplyJson medium = disk.value("inserted", ReplyJson());
  std::string text = disk_title(disk, medium);
  text += medium.is_null() ? ": [not inserted]\n" : medium_title(medium);
  if (disk.contains("qdev")) {
    text += fmt::format("    Attached to:      {}\n", text_of(disk, "qdev"));
  }
  if (const std::string status = text_of(disk, "io-status"); !status.empty() && status != "ok") {
    text += fmt::format("    I/O status:       {}\n", status);
  }
  if (is_set(disk, "removable")) {
    text += fmt::format("    Removable device: {}locked, tray {}\n",
                        is_set(disk, "locked") ? "" : "not ",
                        is_set(disk, "tray_open") ? "open" : "closed");
  }
  if (medium.is_null()) return text;
  text += cache_text(medium["cache"]) + throttle_text(medium);
  return verbose ? text + image_text(medium["image"]) : text;
}

bool is_named(const ReplyJson& disk, const std::string& name) {
  const ReplyJson medium = disk.value("inserted", ReplyJson::object());
  return text_of(disk, "device") == name || text_of(disk, "qdev") == name ||
         text_of(medium, "node-name") == name;
}

Output info_block(const HumanMonitor& monitor, const Given& given) {
  const bool nodes = given.contains("n");
  const auto wanted = given.find("device");
  std::string text;
  const QmpResult list = monitor.ask(nodes ? "query-named-block-nodes" : "query-block");
  if (!list.has_value()) return std::unexpected(list.error());
  for (const ReplyJson& entry : *list) {
    ReplyJson disk = entry;
    if (nodes) {  // as if it were the medium of a disk
      disk = ReplyJson::object();
      disk["inserted"] = entry;
    }
    if (wanted != given.end() && !is_named(disk, wanted->second)) continue;
    if (!text.empty()) text += '\n';
    text += disk_text(disk, given.contains("v"));
  }
  if (!text.empty() || wanted == given.end()) return text;
  return std::unexpected(
      QmpError{.description = fmt::format("Device '{}' not found", wanted->second)});
}

Output info_blockstats(const HumanMonitor& monitor, const Given&) {
  constexpr std::array kFigures{"rd_bytes",         "wr_bytes",           "rd_operations",
                                "wr_operations",    "flush_operations",   "wr_total_time_ns",
                                "rd_total_time_ns", "flush_total_time_ns"};
  return each(monitor.ask("query-blockstats"), [&](const ReplyJson& disk) {
    const std::string device = text_of(disk, "device");
    std::string text = fmt::format("{}:", device.empty() ? text_of(disk, "node-name") : device);
    for (const char* figure : kFigures) {
      text += fmt::format(" {}={}", figure, number_of(disk.at("stats"), figure));
    }
    return text + "\n";
  });
}

Output info_chardev(const HumanMonitor& monitor, const Given&) {
  return each(monitor.ask("query-chardev"), [](const ReplyJson& chardev) {
    return fmt::format("{}: filename={}\n", text_of(chardev, "label"),
                       text_of(chardev, "filename"));
  });
}

Output info_cpus(const HumanMonitor& monitor, const Given&) {
  return each(monitor.ask("query-cpus-fast"), [](const ReplyJson& cpu) {
    const uint64_t index = number_of(cpu, "cpu-index");
    return fmt::format("{} CPU #{}: thread_id={}\n", index == 0 ? '*' : ' ', index,
                       number_of(cpu, "thread-id"));
  });
}

Output info_hotplug(const HumanMonitor& monitor, const Given&) {
  return each(monitor.ask("x-query-hotplug"), [](const ReplyJson& row) {
    std::string text = fmt::format("{}: {} for {} ms", text_of(row, "id"), text_of(row, "state"),
                                   number_of(row, "since-ms"));
    if (row.contains("reason")) text += fmt::format(": {}", text_of(row, "reason"));
    return text + "\n";
  });
}

Output info_iothreads(const HumanMonitor& monitor, const Given&) {
  return each(monitor.ask("query-iothreads"), [](const ReplyJson& thread) {
    std::string text =
        fmt::format("{}:\n  thread_id={}\n", text_of(thread, "id"), number_of(thread, "thread-id"));
    for (const char* name : {"poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"}) {
      text += fmt::format("  {}={}\n", name, number_of(thread, name));
    }
    return text;
  });
}

Output info_jobs(const HumanMonitor& monitor, const Given&) {
  const Output text = each(monitor.ask("query-block-jobs"), [](const ReplyJson& job) {
    return fmt::format("Type {}, device {}: Completed {} of {} bytes, speed limit {} bytes/s\n",
                       text_of(job, "type"), text_of(job, "device"), number_of(job, "offset"),
                       number_of(job, "len"), number_of(job, "speed"));
  });
  return text.has_value() && text->empty() ? "No active jobs\n" : text;
}

Output info_kvm(const HumanMonitor& monitor, const Given&) {
  return shown(monitor.ask("query-kvm"), [](const ReplyJson& kvm) {
    return fmt::format("kvm support: {}\n", is_set(kvm, "enabled") ? "enabled" : "disabled");
  });
}

Output info_name(const HumanMonitor& monitor, const Given&) {
  return shown(monitor.ask("query-name"), [](const ReplyJson& json) {
    const std::string name = text_of(json, "name");
    return name.empty() ? name : fmt::format("{}\n", name);
  });
}

Output info_status(const HumanMonitor& monitor, const Given&) {
  return shown(monitor.ask("query-status"), [](const ReplyJson& json) {
    const std::string status = text_of(json, "status");
    if (is_set(json, "running")) return std::string("VM status: running\n");
    if (status == "paused") return std::string("VM status: paused\n");
    return fmt::format("VM status: paused ({})\n", status);
  });
}

Output info_uuid(const HumanMonitor& monitor, const Given&) {
  return shown(monitor.ask("query-uuid"),
               [](const ReplyJson& json) { return fmt::format("{}\n", text_of(json, "UUID")); });
}

Output info_version(const HumanMonitor& monitor, const Given&) {
  return shown(monitor.ask("query-version"), [](const ReplyJson& version) {
    const ReplyJson& qemu = version.at("qemu");
    return fmt::format("{}.{}.{} {}\n", number_of(qemu, "major"), number_of(qemu, "minor"),
                       number_of(qemu, "micro"), text_of(version, "package"));
  });
}

/// What takes no parameters.
Row row(std::string_view name, std::string_view needs, std::string_view help,
        Output (*run)(const HumanMonitor&, const Given&)) {
  return {name, "", "", help, needs, {}, run};
}

}  // namespace

std::span<const Row> infos() {
  const Parameter nodes{.name = "n", .kind = Kind::kFlag};
  const Parameter verbose{.name = "v", .kind = Kind::kFlag};
  const Parameter device{.name = "device", .presence = kOptional};
  const Parameter path{.name = "path", .presence = kOptional};
  constexpr std::string_view kBlockHelp =
      "show info of one block device or all block devices (-n: show named nodes; -v: show details)";
  static const std::array rows{
      Row{"block",
          "",
          "[-n] [-v] [device]",
          kBlockHelp,
          "query-block",
          {nodes, verbose, device},
          info_block},
      row("block-jobs", "query-block-jobs", "show progress of ongoing block device operations",
          info_jobs),
      row("blockstats", "query-blockstats", "show block device statistics", info_blockstats),
      row("chardev", "query-chardev", "show the character devices", info_chardev),
      row("cpus", "query-cpus-fast", "show infos for each CPU", info_cpus),
      row("hotplug", "x-query-hotplug", "show devices that are being plugged or unplugged",
          info_hotplug),
      row("iothreads", "query-iothreads", "show iothreads", info_iothreads),
      row("kvm", "query-kvm", "show KVM information", info_kvm),
      row("migrate", "query-migrate", "show migration status", info_migrate),
      row("migrate_capabilities", "query-migrate-capabilities",
          "show current migration capabilities", info_migrate_capabilities),
      row("migrate_parameters", "query-migrate-parameters", "show current migration parameters",
          info_migrate_parameters),
      row("name", "query-name", "show the current VM name", info_name),
      row("pci", "query-pci", "show PCI info", info_pci),
      Row{"qom-tree", "", "[path]", "show QOM composition tree", "qom-list", {path}, info_qom_tree},
      row("qtree", "qom-list", "show device tree", info_qtree),
      row("status", "query-status", "show the current VM status (running|paused)", info_status),
      row("uuid", "query-uuid", "show the current VM UUID", info_uuid),
      row("version", "query-version", "show the version of QEMU that is spoken, and Rhea's",
          info_version),
  };
  return rows;
}

}  // namespace rhea::vmm::hmp
