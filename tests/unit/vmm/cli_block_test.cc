// -object, -blockdev, -drive and -device: what the machine is told.
#include <catch2/catch.hpp>

#include "tests/unit/vmm/cli_support.h"

using namespace rhea;
using namespace rhea::vmm;
using namespace rhea::test;
using devices::OnIoError;

namespace {

std::string show(const OptionTree& tree) {
  if (tree.is_string()) return tree.text();
  std::string text;
  for (size_t i = 0; i < tree.values().size(); ++i) {
    if (!text.empty()) text += ' ';
    if (tree.is_object()) text += tree.keys()[i] + "=";
    text += show(tree.values()[i]);
  }
  return "{" + text + "}";
}

DriveConfig drive_of(std::string_view value) {
  return config_of(fmt::format("-drive {}", value)).drives.at(0);
}
std::string node_of(std::string_view value) { return show(*drive_of(value).node); }

constexpr std::string_view kWriteback = "cache={direct=off no-flush=off}";

}  // namespace

TEST_CASE("-blockdev: key=value and JSON are taken in their order", "[cli]") {
  const VmConfig config = config_of(
      "-blockdev driver=raw,node-name=d0,file.driver=file,file.filename=a,,b,cache.direct=on "
      R"(-blockdev {"driver":"null-co","node-name":"d1","size":4096,"read-only":true})");
  REQUIRE(config.blockdevs.size() == 2);
  CHECK(show(config.blockdevs[0].options) ==
        "{driver=raw node-name=d0 file={driver=file filename=a,b} cache={direct=on}}");
  CHECK(show(config.blockdevs[1].options) ==
        "{driver=null-co node-name=d1 size=4096 read-only=on}");
  CHECK(config.blockdevs[1].options.find("size")->written_as() == Scalar::kNumber);
  CHECK(config.blockdevs[0].origin.starts_with("-blockdev driver=raw,"));
}

TEST_CASE("-drive: a file becomes a format over a file node", "[cli]") {
  CHECK(node_of("file=/x.img,format=raw") ==
        fmt::format("{{driver=raw file={{driver=file filename=/x.img}} {}}}", kWriteback));
  CHECK(node_of("file=a,,b,format=raw,file.locking=off,aio=io_uring") ==
        fmt::format("{{driver=raw file={{driver=file filename=a,b locking=off aio=io_uring}} {}}}",
                    kWriteback));
  CHECK(node_of("file=file:x:y,format=raw") ==
        fmt::format("{{driver=raw file={{driver=file filename=x:y}} {}}}", kWriteback));
  CHECK(node_of("file=null-co://,format=raw") ==
        fmt::format("{{driver=raw file={{driver=null-co}} {}}}", kWriteback));
  CHECK(node_of(R"(file=json:{"driver":"null-co",,"size":512},format=raw)") ==
        fmt::format("{{driver=raw file={{driver=null-co size=512}} {}}}", kWriteback));
  CHECK(node_of("driver=null-co,size=512") ==
        fmt::format("{{driver=null-co {} size=512}}", kWriteback));
  CHECK(node_of("file=null-co://,format=null-co") ==
        fmt::format("{{driver=null-co {}}}", kWriteback));
  CHECK(node_of("file.driver=null-co,format=raw,offset=512") ==
        fmt::format("{{driver=raw file={{driver=null-co}} {} offset=512}}", kWriteback));
  CHECK_FALSE(config_of("-drive if=none").drives.at(0).node.has_value());
}

TEST_CASE("-drive: a file without a format is raw by a guess", "[cli]") {
  const DriveConfig drive = drive_of("file=/x.img");
  CHECK(drive.probed_file == "/x.img");
  CHECK(drive.node->find("driver")->text() == "raw");
  CHECK(drive_of("file=/x.img,format=raw").probed_file.empty());
  CHECK(drive_of("driver=null-co").probed_file.empty());
}

TEST_CASE("-drive: cache modes set the host's cache, flushes and the guest's cache", "[cli]") {
  const struct {
    const char* mode;
    const char* node;
    bool write_cache;
  } rows[] = {
      {"none", "{direct=on no-flush=off}", true},
      {"writeback", "{direct=off no-flush=off}", true},
      {"writethrough", "{direct=off no-flush=off}", false},
      {"directsync", "{direct=on no-flush=off}", false},
      {"unsafe", "{direct=off no-flush=on}", true},
  };
  for (const auto& row : rows) {
    INFO(row.mode);
    const DriveConfig drive = drive_of(fmt::format("driver=null-co,cache={}", row.mode));
    CHECK(show(*drive.node->find("cache")) == row.node);
    CHECK(drive.write_cache == row.write_cache);
  }
  const DriveConfig drive = drive_of("driver=null-co,cache.direct=on,cache.writeback=off");
  CHECK(show(*drive.node->find("cache")) == "{direct=on no-flush=off}");
  CHECK_FALSE(drive.write_cache);
}

TEST_CASE("-drive: the rest of what it says", "[cli]") {
  const DriveConfig drive =
      drive_of("driver=null-co,if=none,id=d0,readonly=on,discard=unmap,werror=stop,rerror=ignore");
  CHECK(drive.id == "d0");
  CHECK(drive.node->find("read-only")->text() == "on");
  CHECK(drive.node->find("discard")->text() == "unmap");
  CHECK(drive.on_write_error == OnIoError::kStop);
  CHECK(drive.on_read_error == OnIoError::kIgnore);
  CHECK(drive_of("driver=null-co,werror=enospc").on_write_error == OnIoError::kNoSpace);
  CHECK_FALSE(drive_of("driver=null-co").on_write_error.has_value());
  CHECK(drive_of("driver=null-co,media=cdrom").node->find("read-only")->text() == "on");
  CHECK(drive_of("driver=null-co,media=disk").node->find("read-only") == nullptr);
}

TEST_CASE("-drive: a virtio disk unless if=none, behind the devices of -device", "[cli]") {
  const VmConfig config = config_of(
      "-drive driver=null-co -drive driver=null-co,if=none -drive driver=null-co,if=virtio,index=5 "
      "-drive driver=null-co,if=virtio,id=mine");
  REQUIRE(config.drives.size() == 4);
  CHECK(config.drives[0].id == "virtio0");
  CHECK(config.drives[1].id == "none0");
  CHECK(config.drives[2].id == "virtio5");
  REQUIRE(config.devices.size() == 3);
  CHECK(config.devices[0].driver == "virtio-blk-pci");
  CHECK(config.devices[0].id.empty());
  CHECK(show(config.devices[0].options) == "{drive=virtio0}");
  CHECK(show(config.devices[2].options) == "{drive=mine}");
  CHECK(config.devices[2].origin == "-drive driver=null-co,if=virtio,id=mine");
}

TEST_CASE("-object iothread: is for the object table, whatever it says", "[cli]") {
  const VmConfig config = config_of(
      "-object iothread,id=iot0,poll-max-ns=5 -object secret,id=s,data=x "
      R"(-object {"qom-type":"iothread","id":"iot1"})");
  REQUIRE(config.objects.size() == 2);
  CHECK(config.objects[0].type == "iothread");
  CHECK(config.objects[0].id == "iot0");
  CHECK(show(config.objects[0].options) == "{poll-max-ns=5}");
  CHECK(config.objects[1].id == "iot1");
  CHECK(config.other_object_ids == std::vector<std::string>{"s"});
  CHECK_THAT(printed_by("-object help"), Catch::Contains("\n  iothread\n"));
}

TEST_CASE("-device DRIVER,help: lists what a driver takes", "[cli]") {
  CHECK(printed_by("-device help") == printed_by("-device ?"));
  CHECK_THAT(printed_by("-device help"), Catch::Contains("name \"isa-serial\", bus ISA\n"));
  CHECK_THAT(printed_by("-device isa-serial,help"),
             Catch::StartsWith("isa-serial options:\n  chardev=<str>"));
  for (const char* property : {"addr=", "bus=", "drive=", "iothread-vq-mapping=", "serial="}) {
    INFO(property);
    CHECK_THAT(printed_by("-device virtio-blk-pci,help"), Catch::Contains(property));
  }
  CHECK(error_of("-device bogus,help") ==
        "-device bogus,help: 'bogus' is not a valid device model name");
}

TEST_CASE("-blockdev and -drive: mistakes are named", "[cli]") {
  const struct {
    const char* option;
    const char* reason;
  } rows[] = {
      {"-blockdev {", "JSON parse error at byte 2"},
      {"-blockdev help", "Help is not available for this option"},
      {"-drive file=x,if=bogus", "unsupported bus type 'bogus'"},
      {"-drive file=x,if=ide", "machine type does not support if=ide: only if=virtio and if=none"},
      {"-drive file=x,cache=bogus", "invalid cache option"},
      {"-drive file=x,cache.bogus=on", "Invalid parameter 'cache.bogus'"},
      {"-drive file=x,format=raw,driver=raw", "Cannot specify both 'driver' and 'format'"},
      {"-drive file=x,aio=bogus", "invalid aio option"},
      {"-drive file=x,werror=bogus", "'bogus' invalid write error action"},
      {"-drive file=x,rerror=enospc", "'enospc' invalid read error action"},
      {"-drive file=x,discard=bogus", "Invalid discard option"},
      {"-drive file=x,media=bogus", "'bogus' invalid media"},
      {"-drive file=x,readonly=bogus", "Parameter 'readonly' expects 'on' or 'off'"},
      {"-drive file=x,snapshot=on", "'snapshot' can only be off"},
      {"-drive file=x,detect-zeroes=on", "'detect-zeroes' can only be off"},
      {"-drive file=x,index=1,unit=0", "index cannot be used with bus and unit"},
      {"-drive file=,format=raw", "A block device must be specified for \"file\""},
      {"-drive file=nope://x", "Unknown protocol 'nope'"},
      {"-drive file=null-co://x", "The only allowed filename for this driver is 'null-co://'"},
      {"-drive file=/x,format=null-co", "the file is of driver 'file', not 'null-co'"},
      {"-drive file=json:{,format=raw",
       "Could not parse the JSON options: JSON parse error at byte 2"},
      {"-drive file=x,file.driver.y=1,file.driver=z",
       "Parameters 'file.driver.*' used "
       "inconsistently"},
      {"-drive if=virtio", "Device needs media, but drive is empty"},
      {"-drive if=none,id=1a",
       "Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a "
       "letter)"},
      {"-drive foo", "Expected '=' after parameter 'foo'"},
  };
  for (const auto& row : rows) {
    INFO(row.option);
    CHECK(error_of(row.option) == fmt::format("{}: {}", row.option, row.reason));
  }
  CHECK(error_of("-drive if=none,id=a -drive if=none,id=a") ==
        "-drive if=none,id=a: Duplicate ID 'a' for drive");
  CHECK(error_of("-drive file=x,index=3 -drive file=y,index=3") ==
        "-drive file=y,index=3: drive with bus=3, unit=0 (index=3) exists");
}
