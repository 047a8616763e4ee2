#include "migration/manifest.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <tuple>

#include "util/saved_state.h"

using namespace rhea;
using namespace rhea::migration;

namespace {

Manifest machine() {
  return {.program = "Rhea 0.1.0",
          .machine = "pc",
          .accelerator = "kvm",
          .cpus = 2,
          .uuid = "11111111-2222-3333-4444-555555555555",
          .ram = {{"pc.ram", 0x4000000}, {"rom", 0x10000}},
          .devices = {{"serial0", "16550", 1, 0x12345678},
                      {"vd0", "virtio-blk-pci", 3, 0x9abc, "queues=2x128 features=0x1"}}};
}

std::string refusal(const Manifest& theirs, CompareUuid uuid = CompareUuid::kNo) {
  const auto result = check_same_machine(machine(), theirs, uuid);
  return result ? "" : result.error().message();
}

}  // namespace

TEST_CASE("Manifest: the same machine is the same, in any order, of any program", "[migration]") {
  Manifest theirs = machine();
  std::swap(theirs.ram[0], theirs.ram[1]);
  std::swap(theirs.devices[0], theirs.devices[1]);
  theirs.program = "Rhea 0.2.0";
  theirs.uuid = "00000000-0000-0000-0000-000000000000";
  CHECK(refusal(theirs).empty());
}

TEST_CASE("Manifest: what differs is named, with both values", "[migration]") {
  const auto [change, expected] = GENERATE(table<std::function<void(Manifest&)>, std::string>({
      {[](Manifest& m) { m.stream_version = 3; },
       "The version of the stream differs: 3 there, 2 here"},
      {[](Manifest& m) { m.machine = "q35"; }, "The machine differs: q35 there, pc here"},
      {[](Manifest& m) { m.accelerator = "qtest"; },
       "The accelerator differs: qtest there, kvm here"},
      {[](Manifest& m) { m.cpus = 4; }, "The number of CPUs differs: 4 there, 2 here"},
      {[](Manifest& m) { m.ram[0].size_bytes = 0x2000000; },
       "Size mismatch: pc.ram: 0x2000000 != 0x4000000"},
      {[](Manifest& m) { m.ram[1].name = "flash"; }, "There is no RAM block 'flash' here"},
      {[](Manifest& m) { m.ram.pop_back(); }, "There is no RAM block 'rom' there"},
      {[](Manifest& m) { m.ram.push_back(m.ram[0]); },
       "There are two RAM blocks with the name 'pc.ram' there"},
      {[](Manifest& m) { m.devices.pop_back(); },
       "There is no device 'vd0' (virtio-blk-pci) there"},
      {[](Manifest& m) { m.devices[1].path = "vd1"; },
       "There is no device 'vd1' (virtio-blk-pci) here"},
      {[](Manifest& m) { m.devices.push_back(m.devices[0]); },
       "There are two devices with the name 'serial0' there"},
      {[](Manifest& m) { m.devices[1].kind = "virtio-scsi-pci"; },
       "Device 'vd0' is a virtio-scsi-pci there, a virtio-blk-pci here"},
      {[](Manifest& m) { m.devices[1].version = 2; },
       "Device 'vd0' (virtio-blk-pci) has version 2 there, 3 here"},
      {[](Manifest& m) { ++m.devices[0].schema_crc32c; },
       "Device 'serial0' (16550) has other fields there than here"},
      {[](Manifest& m) { m.devices[1].settings = "queues=4x128 features=0x1"; },
       "Device 'vd0' (virtio-blk-pci) has queues=4x128 there, queues=2x128 here"},
      {[](Manifest& m) { m.devices[1].settings = "queues=2x128"; },
       "Device 'vd0' (virtio-blk-pci) has nothing there, features=0x1 here"},
      {[](Manifest& m) { m.devices[0].settings = "medium=yes rom=no"; },
       "Device 'serial0' (16550) has medium=yes rom=no there, nothing here"},
  }));
  Manifest theirs = machine();
  change(theirs);
  CHECK(refusal(theirs) == expected);
}

TEST_CASE("Manifest: the UUID counts when it is asked for", "[migration]") {
  Manifest theirs = machine();
  CHECK(refusal(theirs, CompareUuid::kYes).empty());
  theirs.uuid = "";
  CHECK(refusal(theirs).empty());
  CHECK(refusal(theirs, CompareUuid::kYes) ==
        "The UUID differs:  there, 11111111-2222-3333-4444-555555555555 here");
}

TEST_CASE("Manifest: it travels", "[migration]") {
  const auto theirs = decode_state<Manifest>("hello", encode_state(machine()));
  REQUIRE(theirs);
  CHECK(theirs->program == "Rhea 0.1.0");
  CHECK(theirs->ram == machine().ram);
  CHECK(theirs->devices == machine().devices);
  CHECK(check_same_machine(machine(), *theirs, CompareUuid::kYes));
}
