// Manifest: what a machine is, for another instance to say whether it is the same one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "util/error.h"

namespace rhea::migration {

/// The version of the stream. It changes when an older instance could misread a newer one.
inline constexpr uint32_t kStreamVersion = 2;

struct RamInfo {
  std::string name;
  uint64_t size_bytes = 0;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("name", s.name, 255);
    v.field("size", s.size_bytes);
  }
  friend bool operator==(const RamInfo&, const RamInfo&) = default;
};

/// One of the states that will come. Its schema is what tells two versions of a program apart whose
/// authors forgot to count the version up.
struct DeviceInfo {
  std::string path;  ///< "/machine/peripheral/vd0", "serial0": unique
  std::string kind;  ///< "virtio-blk-pci"
  uint32_t version = 0;
  uint32_t schema_crc32c = 0;
  /// How it is set up, as far as a state fits only where that is equal: "queues=2x128 medium=yes".
  std::string settings{};
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("path", s.path, 255);
    v.field("kind", s.kind, 63);
    v.field("version", s.version);
    v.field("schema", s.schema_crc32c);
    v.field("settings", s.settings, 255);
  }
  friend bool operator==(const DeviceInfo&, const DeviceInfo&) = default;
};

/// What must be equal on both sides, in the order in which it is compared.
struct Manifest {
  uint32_t stream_version = kStreamVersion;
  std::string program;  ///< for messages: "Rhea 0.1.0"
  std::string machine;  ///< "pc"
  std::string accelerator;
  uint32_t cpus = 0;
  std::string uuid;  ///< compared only with validate-uuid
  std::vector<RamInfo> ram;
  std::vector<DeviceInfo> devices;
  template <class Visitor, class Self>
  static void describe(Visitor& v, Self& s) {
    v.field("stream-version", s.stream_version);
    v.field("program", s.program, 255);
    v.field("machine", s.machine, 63);
    v.field("accelerator", s.accelerator, 63);
    v.field("cpus", s.cpus);
    v.field("uuid", s.uuid, 36);
    v.field("ram", s.ram, 64);
    v.field("devices", s.devices, 4096);
  }
};

enum class CompareUuid : bool { kNo, kYes };

/// Whether a machine like `theirs` can go on as `ours`. The order of RAM blocks and of devices does
/// not matter.
/// Errors: kInvalidArgument, with the first thing that differs: its name and both values.
Result<void> check_same_machine(const Manifest& ours, const Manifest& theirs, CompareUuid uuid);

}  // namespace rhea::migration
