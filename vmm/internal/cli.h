// What the files of the command line share: the option table and the draft that options fill.
//
// An option's handler sees one occurrence, in the order of the command line, and puts what it says
// into the Draft. What depends on several options is settled when all were seen, by the finish_
// functions, in the order in which finish() in cli.cc calls them.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.h"
#include "util/option_reader.h"
#include "vmm/config.h"

namespace rhea::vmm::cli {

/// One occurrence of an option on the command line.
struct Given {
  std::string_view name;
  std::string value;
  /// "-m 1G", or "-S": what errors start with.
  std::string origin() const;
};

/// An option that may be given in parts: what is said later replaces what was said before, key by
/// key.
struct MergedOption {
  OptionTree options;
  std::string origin;  ///< the last occurrence
  bool given() const { return !origin.empty(); }
  void merge(const Given& given, OptionTree later);
};

/// A device or monitor that names a chardev, to be checked when all chardevs are known.
struct ChardevUse {
  /// A chardev with mux=on takes one of each, any other one in all.
  enum class Role : uint8_t { kDevice, kHumanMonitor };
  std::string id;
  std::string origin;
  std::string missing;  ///< the reason, if there is no such chardev
  Role role = Role::kDevice;
};

/// -device isa-serial.
struct IsaSerial {
  std::string chardev;  ///< empty: nothing is connected
  std::optional<unsigned> index;
  std::string origin;
};

struct MemoryObject {
  MemoryBackendConfig backend;
  std::optional<bool> prealloc;
  std::string origin;
};

/// Where a -drive is plugged in.
struct DriveUse {
  bool is_virtio = false;  ///< else a -device names it
  uint64_t index = 0;      ///< differ among those of one kind
};

/// The command line as far as it was read.
/// Invariants: `print` is set by the first option that asks for text; nothing is read after it.
struct Draft {
  VmConfig config;
  std::optional<std::string> print;

  MergedOption machine, memory, smp;
  std::vector<std::string> accelerators;  ///< -accel, in order
  std::string accel_origin;
  std::optional<std::string> mem_path;
  bool mem_prealloc = false;
  std::vector<MemoryObject> memory_objects;
  std::set<std::string> object_ids, device_ids;
  std::vector<DriveUse> drives;  ///< as many as config.drives

  bool defaults = true;
  bool nographic = false;
  std::vector<std::string> serials;  ///< -serial: chardev ids; empty for none
  std::vector<IsaSerial> isa_serials;
  std::vector<ChardevUse> chardev_uses;
  std::vector<MonitorConfig> console_monitors;  ///< those behind mon: consoles
  std::string append_origin, initrd_origin, stdio_origin;
};

enum class Takes : uint8_t { kNothing, kValue };
/// Whether -help lists an option: those that change nothing, or only explain themselves, are
/// hidden.
enum class Shown : uint8_t { kYes, kNo };

using Handler = Result<void> (*)(Draft& draft, const Given& given);

struct OptionRow {
  std::string_view name;
  Takes takes;
  std::string_view syntax;  ///< "[size=]N", after the name in -help
  std::string_view help;
  Handler handler;
  Shown shown = Shown::kYes;
};

/// All options, in the order of -help.
std::span<const OptionRow> option_table();
std::string help_text();

/// Text with control characters as \n, \t or \xNN, so that a message stays one line.
std::string one_line(std::string_view text);

/// "-name VALUE" for a message about an option that is being settled after all were read.
Error at(std::string_view origin, Error error);

// cli_machine.cc
Result<void> on_machine(Draft& draft, const Given& given);
Result<void> on_accel(Draft& draft, const Given& given);
Result<void> on_enable_kvm(Draft& draft, const Given& given);
Result<void> on_cpu(Draft& draft, const Given& given);
/// `memory_backend` gets what -machine memory-backend= names.
Result<void> finish_machine(Draft& draft, std::string& memory_backend);

// cli_smp.cc
Result<void> on_smp(Draft& draft, const Given& given);
Result<void> finish_smp(Draft& draft);

// cli_memory.cc
Result<void> on_memory(Draft& draft, const Given& given);
Result<void> on_object(Draft& draft, const Given& given);
Result<void> finish_memory(Draft& draft, const std::string& memory_backend);

// cli_chardev.cc: what a chardev is
Result<void> on_chardev(Draft& draft, const Given& given);
/// A device's chardev as -serial writes it: "unix:/x,server=on" becomes a chardev called `id`,
/// "chardev:ID" names one. Returns the chardev's id.
Result<std::string> add_compat_chardev(Draft& draft, const Given& given, std::string id,
                                       ChardevUse::Role role = ChardevUse::Role::kDevice);
/// Errors: the id is taken, or stdio is.
Result<void> add_chardev(Draft& draft, ChardevConfig chardev, const std::string& origin);
std::string chardev_help();

// cli_console.cc: who uses the chardevs
Result<void> on_serial(Draft& draft, const Given& given);
Result<void> on_debugcon(Draft& draft, const Given& given);
Result<void> on_qmp(Draft& draft, const Given& given);
Result<void> on_mon(Draft& draft, const Given& given);
Result<void> on_monitor(Draft& draft, const Given& given);
Result<void> on_qtest(Draft& draft, const Given& given);
/// -device isa-serial. `reader` has what is left after `driver` and `id`.
Result<void> add_isa_serial(Draft& draft, const Given& given, OptionReader& reader);
Result<void> finish_consoles(Draft& draft);

// cli_block.cc
Result<void> on_blockdev(Draft& draft, const Given& given);
Result<void> on_drive(Draft& draft, const Given& given);
/// Asks for the devices of -drive if=virtio, behind all that -device asks for.
void finish_drives(Draft& draft);

// cli_device.cc
Result<void> on_device(Draft& draft, const Given& given);

// cli_incoming.cc
Result<void> on_incoming(Draft& draft, const Given& given);

// cli_identity.cc
Result<void> on_name(Draft& draft, const Given& given);
Result<void> on_uuid(Draft& draft, const Given& given);
Result<void> on_log(Draft& draft, const Given& given);
Result<void> on_version(Draft& draft, const Given& given);
Result<void> on_help(Draft& draft, const Given& given);

// cli_ignored.cc: options that are true anyway, and options that can not be
Result<void> on_harmless(Draft& draft, const Given& given);
Result<void> on_global(Draft& draft, const Given& given);
Result<void> on_refused(Draft& draft, const Given& given);

}  // namespace rhea::vmm::cli
