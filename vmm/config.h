// VmConfig: the command line, parsed and checked, before anything of the host is touched.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "devices/io_error.h"
#include "util/options.h"

namespace rhea::vmm {

enum class Accelerator : uint8_t { kKvm, kQtest };

/// -smp. Invariants: 1 <= cpus <= max_cpus == sockets * cores * threads.
struct SmpConfig {
  unsigned cpus = 1, max_cpus = 1, sockets = 1, cores = 1, threads = 1;
};

/// -object memory-backend-memfd|file|ram, or what -m, -mem-path and -mem-prealloc say.
struct MemoryBackendConfig {
  enum class Type : uint8_t { kRam, kMemfd, kFile };
  Type type = Type::kRam;
  std::string id;
  uint64_t size_bytes = 0;
  std::string path;  ///< kFile; a hugetlbfs directory or a file
  bool share = false;
  bool prealloc = false;
  bool hugetlb = false;             ///< kMemfd
  uint64_t hugetlb_size_bytes = 0;  ///< 0: the host's default
};

/// A character device as given by -serial, -chardev or -qmp.
struct ChardevConfig {
  enum class Type : uint8_t { kNull, kStdio, kFile, kPty, kUnixSocket, kTcpSocket };
  Type type = Type::kNull;
  std::string id;
  std::string path;       ///< file or unix socket
  std::string host;       ///< tcp
  uint16_t port = 0;      ///< tcp
  std::optional<int> fd;  ///< an inherited descriptor, listening if `server`
  bool server = false;
  bool wait = true;      ///< server: hold the start until a peer came
  bool mux = false;      ///< mon:stdio: Ctrl-A keys, and room for a monitor beside the console
  bool signal = true;    ///< stdio: Ctrl-C reaches the process (off with -nographic and mon:)
  std::string original;  ///< "-serial unix:/x,server=on", for messages
};

struct MonitorConfig {
  enum class Mode : uint8_t { kControl, kReadline };
  std::string chardev_id;
  Mode mode = Mode::kControl;  ///< QMP, or for people
};

/// -object of a type that vmm/object_table.h lists.
struct ObjectConfig {
  std::string type, id;
  OptionTree options;  ///< the type's own
  std::string origin;  ///< "-object iothread,id=iot0": what errors start with
};

/// -blockdev.
struct BlockdevConfig {
  OptionTree options;
  std::string origin;
};

/// -drive: a medium, and how a device that gets it uses it.
struct DriveConfig {
  std::string id;
  std::optional<OptionTree> node;  ///< none: no medium
  /// Not empty: nobody said which format this file has. It is taken for raw if nothing in it looks
  /// like another one.
  std::string probed_file;
  bool write_cache = true;
  std::optional<devices::OnIoError> on_read_error, on_write_error;
  std::string origin;
};

/// -device of a driver that vmm/device_table.h lists; also what -drive if=virtio asks for.
struct DeviceConfig {
  std::string driver, id;  ///< `id` may be empty
  OptionTree options;      ///< the driver's own, and where it goes
  std::string origin;
};

struct VmConfig {
  std::string machine = "pc";
  Accelerator accelerator = Accelerator::kKvm;
  uint32_t dirty_ring_entries = 0;  ///< -accel kvm,dirty-ring-size=; 0: bitmaps
  SmpConfig smp;
  MemoryBackendConfig memory;  ///< always complete: -m alone gives type kRam
  std::optional<std::string> kernel, initrd;
  std::string append;
  std::vector<ChardevConfig> chardevs;
  std::vector<std::string> serials;  ///< chardev ids, in port order; empty id: no port there
  std::optional<std::string> debug_console;  ///< chardev id of -debugcon
  std::vector<MonitorConfig> monitors;
  std::optional<std::string> qtest_chardev;  ///< -qtest
  std::optional<std::string> qtest_log;
  // In the order of the command line, which is that of making; each list after the one before.
  std::vector<ObjectConfig> objects;
  std::vector<std::string> other_object_ids;  ///< of -object that are not in `objects`
  std::vector<BlockdevConfig> blockdevs;
  std::vector<DriveConfig> drives;
  std::vector<DeviceConfig> devices;
  std::chrono::seconds unplug_timeout{30};  ///< -machine x-unplug-timeout=
  bool start_paused = false;                ///< -S
  std::optional<std::string> incoming;      ///< -incoming: an address, or "defer"
  bool no_reboot = false, no_shutdown = false;
  bool daemonize = false;
  std::optional<std::string> pidfile;
  std::optional<std::string> name;
  std::optional<std::string> uuid;      ///< canonical lower-case text
  std::optional<std::string> log_spec;  ///< -d
  std::optional<std::string> log_file;  ///< -D
};

}  // namespace rhea::vmm
