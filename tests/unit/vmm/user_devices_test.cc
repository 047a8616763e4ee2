#include "vmm/user_devices.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_pci.h"
#include "tests/unit/vmm/devices_fixture.h"
#include "vmm/qtest_accel.h"
#include "vmm/vm.h"

using namespace rhea;
using namespace rhea::vmm;
using devices::IoError;
using devices::OnIoError;
using rhea::test::DevicesFixture;

namespace {

const devices::VirtioBlk& disk_at(const devices::PciBus& bus, unsigned slot) {
  bql.assert_held();
  auto* pci = dynamic_cast<devices::VirtioPci*>(bus.device_at(slot));
  return dynamic_cast<const devices::VirtioBlk&>(pci->device());
}

class Fixture : public DevicesFixture {
 public:
  using DevicesFixture::DevicesFixture;
  const devices::VirtioBlk& disk(unsigned slot) { return disk_at(bus(), slot); }
};

/// Writes down what a machine would be told.
struct FakeMachine final : MachineRequests {
  void request_reset(Cause) override {}
  void request_shutdown(Cause) override {}
  void disk_error(const DiskError& error) override { errors.push_back(error); }
  std::vector<DiskError> errors;
};

}  // namespace

TEST_CASE("UserDevices: a device holds its disk and its iothread until it goes", "[userdevices]") {
  Fixture f("-object iothread,id=iot0 -blockdev null-co,node-name=n0");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=n0,iothread=iot0,num-queues=2") == "no error");
  CHECK(f.at(2)->id() == "vd0");
  CHECK(f.disk(2).config().queues.size() == 2);
  CHECK(f.disk(2).config().queues[0] != &f.loop().block());
  CHECK(f.ask("object-del", R"({"id":"iot0"})") ==
        "GenericError: object 'iot0' is in use, can not be deleted: device 'vd0' uses it");
  CHECK(f.ask("blockdev-del", R"({"node-name":"n0"})") == "GenericError: Node n0 is in use");
  CHECK(f.ask("x-blockdev-set-iothread", R"({"node-name":"n0","iothread":null})") ==
        "GenericError: Node n0 is associated with a BlockBackend and could be in use (use "
        "force=true to override this check)");
  const auto block = f.answer("query-block");
  REQUIRE(block.size() == 1);
  CHECK(block[0]["device"] == "");
  CHECK(block[0]["qdev"] == "/machine/peripheral/vd0/virtio-backend");
  CHECK(block[0]["removable"] == false);
  CHECK(block[0]["inserted"]["node-name"] == "n0");
  CHECK(block[0]["io-status"] == "ok");
  f.unplug_all();
  CHECK(f.ask("query-block") == "[]");
  CHECK(f.ask("blockdev-del", R"({"node-name":"n0"})") == "{}");
  CHECK(f.ask("object-del", R"({"id":"iot0"})") == "{}");
}

TEST_CASE("UserDevices: a node's users move to another iothread together", "[userdevices]") {
  Fixture f(
      "-object iothread,id=iot0 -object iothread,id=iot1 -blockdev null-co,node-name=n0 "
      "-blockdev raw,node-name=r0,file=n0 -blockdev raw,node-name=r1,file=n0");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=r0,iothread=iot0,num-queues=2,share-rw=on") ==
          "no error");
  REQUIRE(f.plug("virtio-blk-pci,id=vd1,drive=r1,share-rw=on") == "no error");
  CHECK(f.ask("x-blockdev-set-iothread", R"({"node-name":"n0","iothread":"x","force":true})") ==
        "GenericError: Cannot find iothread x");
  CHECK(f.ask("x-blockdev-set-iothread", R"({"node-name":"n0","iothread":"iot1","force":true})") ==
        "{}");
  CHECK(f.ask("object-del", R"({"id":"iot0"})") == "{}");
  CHECK(f.ask("object-del", R"({"id":"iot1"})") ==
        "GenericError: object 'iot1' is in use, can not be deleted: device 'vd0' uses it");
  CHECK(f.ask("x-blockdev-set-iothread", R"({"node-name":"r0","iothread":null,"force":true})") ==
        "{}");
  CHECK(f.ask("object-del", R"({"id":"iot1"})") ==
        "GenericError: object 'iot1' is in use, can not be deleted: device 'vd1' uses it");
}

namespace {

/// block_set_io_throttle with these members, and 0 for the rates that it must name.
std::string limit(Fixture& f, std::string_view who, std::string_view more) {
  Json arguments = Json::parse(fmt::format("{{{}}}", more));
  for (const char* rate : {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"}) {
    if (!arguments.contains(rate)) arguments[rate] = 0;
  }
  arguments["id"] = std::string(who);
  return f.ask("block_set_io_throttle", arguments.dump());
}

ReplyJson inserted(Fixture& f, size_t disk) { return f.answer("query-block")[disk]["inserted"]; }

}  // namespace

TEST_CASE("UserDevices: a disk's limits come, change and go", "[userdevices][throttle]") {
  Fixture f("-blockdev null-co,node-name=n0");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=n0") == "no error");
  CHECK(inserted(f, 0)["iops"] == 0);
  CHECK_FALSE(inserted(f, 0).contains("group"));
  CHECK(limit(f, "vd0", R"("iops":100,"bps_rd":5000,"bps_rd_max":6000,"iops_size":512)") == "{}");
  CHECK(inserted(f, 0)["node-name"] == "n0");
  CHECK(inserted(f, 0)["iops"] == 100);
  CHECK(inserted(f, 0)["bps_rd"] == 5000);
  CHECK(inserted(f, 0)["bps_rd_max"] == 6000);
  CHECK(inserted(f, 0)["bps_rd_max_length"] == 1);
  CHECK(inserted(f, 0)["iops_size"] == 512);
  CHECK(inserted(f, 0)["group"] == "vd0");
  CHECK(f.answer("query-named-block-nodes").size() == 2);
  CHECK(limit(f, "vd0", R"("iops":50)") == "{}");
  CHECK(inserted(f, 0)["iops"] == 50);
  CHECK(inserted(f, 0)["bps_rd"] == 0);
  CHECK(limit(f, "vd0", R"("iops":50,"iops_rd":1)") ==
        "GenericError: bps/iops/max total values and read/write values cannot be used at the same "
        "time");
  CHECK(limit(f, "vd0", R"("bps":-1)") ==
        "GenericError: bps/iops/max values must be within [0, 1000000000000000]");
  CHECK(inserted(f, 0)["iops"] == 50);
  CHECK(limit(f, "vd0", "") == "{}");
  CHECK_FALSE(inserted(f, 0).contains("group"));
  CHECK(f.answer("query-named-block-nodes").size() == 1);
  CHECK(f.graph().throttle_groups().find(f.gs(), "vd0") == nullptr);
  CHECK(limit(f, "vd0", "") == "{}");
}

TEST_CASE("UserDevices: disks share a group of limits, and leave it", "[userdevices][throttle]") {
  Fixture f(
      "-object throttle-group,id=tg,x-iops-total=7 -blockdev null-co,node-name=n0 "
      "-blockdev null-co,node-name=n1,read-only=on");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=n0") == "no error");
  REQUIRE(f.plug("virtio-blk-pci,id=vd1,drive=n1") == "no error");
  CHECK(limit(f, "vd0", R"("iops":10,"group":"own")") == "{}");
  CHECK(limit(f, "vd1", R"("iops":20,"group":"own")") == "{}");
  CHECK(inserted(f, 0)["iops"] == 20);
  CHECK(inserted(f, 1)["group"] == "own");
  CHECK(inserted(f, 1)["ro"] == true);
  // The user's own group is a group like any other.
  CHECK(limit(f, "vd0", R"("iops":30,"group":"tg")") == "{}");
  CHECK(f.ask("qom-get", R"({"path":"/objects/tg","property":"limits"})").find("30") !=
        std::string::npos);
  CHECK(f.ask("object-del", R"({"id":"tg"})").find("is in use") != std::string::npos);
  CHECK(inserted(f, 1)["iops"] == 20);
  CHECK(limit(f, "vd1", "") == "{}");
  CHECK(f.graph().throttle_groups().find(f.gs(), "own") == nullptr);
  f.unplug_all();
  CHECK(f.ask("object-del", R"({"id":"tg"})") == "{}");
  CHECK(f.answer("query-named-block-nodes").size() == 2);
}

TEST_CASE("UserDevices: what a mirror has replaced can be limited again",
          "[userdevices][throttle]") {
  Fixture f("-blockdev null-co,node-name=n0 -blockdev null-co,node-name=n1");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=n0") == "no error");
  CHECK(limit(f, "vd0", R"("iops":10)") == "{}");
  block::Node* limiter = f.storage().disks().all()[0]->backend()->node(f.gs());
  REQUIRE(limiter->name().starts_with("#"));
  REQUIRE(f.graph().replace(f.gs(), *limiter, *f.graph().find(f.gs(), "n1")).has_value());
  CHECK(inserted(f, 0)["node-name"] == "n1");
  CHECK_FALSE(inserted(f, 0).contains("group"));
  CHECK(limit(f, "vd0", R"("iops":11)") == "{}");
  CHECK(inserted(f, 0)["iops"] == 11);
  CHECK(f.answer("query-named-block-nodes").size() == 3);
}

TEST_CASE("UserDevices: a drive's settings are the device's unless it says else", "[userdevices]") {
  Fixture f(
      "-drive driver=null-co,if=none,id=e0,cache=writethrough,werror=report,rerror=ignore "
      "-drive driver=null-co,if=none,id=e1,werror=stop");
  REQUIRE(f.plug("virtio-blk-pci,drive=e0") == "no error");
  CHECK_FALSE(f.disk(2).config().write_cache);
  CHECK(f.disk(2).config().on_write_error == OnIoError::kReport);
  CHECK(f.disk(2).config().on_read_error == OnIoError::kIgnore);
  CHECK(f.answer("query-block")[0]["qdev"] == "/machine/peripheral-anon/device[0]/virtio-backend");
  CHECK_FALSE(f.answer("query-block")[0].contains("io-status"));
  CHECK(f.plug("virtio-blk-pci,drive=e0") == "Drive 'e0' is already in use by another device");
  REQUIRE(f.plug("virtio-blk-pci,drive=e1,werror=enospc,rerror=auto,write-cache=off") ==
          "no error");
  CHECK(f.disk(3).config().on_write_error == OnIoError::kNoSpace);
  CHECK(f.disk(3).config().on_read_error == OnIoError::kReport);
  CHECK_FALSE(f.disk(3).config().write_cache);
}

TEST_CASE("UserDevices: queues go to the iothreads that are said", "[userdevices]") {
  Fixture f(
      "-object iothread,id=a -object iothread,id=b -blockdev null-co,node-name=n0 "
      "-blockdev null-co,node-name=n1 -blockdev null-co,node-name=n2");
  const auto contexts = [&](unsigned slot) { return f.disk(slot).config().queues; };
  REQUIRE(f.plug(R"({"driver":"virtio-blk-pci","drive":"n0","num-queues":4,
                     "iothread-vq-mapping":[{"iothread":"a"},{"iothread":"b"}]})") == "no error");
  CHECK(contexts(2)[0] == contexts(2)[2]);
  CHECK(contexts(2)[1] == contexts(2)[3]);
  CHECK(contexts(2)[0] != contexts(2)[1]);
  REQUIRE(f.plug(R"({"driver":"virtio-blk-pci","drive":"n1","num-queues":3,"iothread-vq-mapping":[
                     {"iothread":"b","vqs":[1]},{"iothread":"a","vqs":[0,2]}]})") == "no error");
  CHECK(contexts(3)[0] == contexts(2)[0]);
  CHECK(contexts(3)[1] == contexts(2)[1]);
  CHECK(contexts(3)[2] == contexts(2)[0]);
  const auto error = [&](std::string_view mapping) {
    return f.plug(fmt::format(R"({{"driver":"virtio-blk-pci","drive":"n2","num-queues":2,)"
                              R"("iothread-vq-mapping":{}}})",
                              mapping));
  };
  CHECK(error(R"([{"iothread":"x"}])") == "Device 'x' not found");
  CHECK(error(R"([{"iothread":"a","vqs":[0]}])") ==
        "missing vq 1 IOThread assignment in iothread-vq-mapping");
  CHECK(error(R"([{"iothread":"a","vqs":[2]}])") ==
        "vq index 2 for iothread-vq-mapping must be less than num-queues 2");
  CHECK(error(R"([{"iothread":"a","vqs":[0,0]}])") == "cannot assign vq 0 to two iothreads");
  CHECK(error(R"([{"iothread":"a","vqs":[0,1]},{"iothread":"b"}])") ==
        "either all items in iothread-vq-mapping must have vqs or none of them must have it");
  CHECK(f.ask("object-del", R"({"id":"c"})") == "GenericError: object 'c' not found");
}

TEST_CASE("UserDevices: mistakes are named as QEMU does, and leave nothing behind",
          "[userdevices]") {
  Fixture f(
      "-object iothread,id=iot0 -blockdev null-co,node-name=n0 -blockdev null-co,node-name=n1 "
      "-blockdev null-co,node-name=n2 -drive if=none,id=empty");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=n0,addr=5") == "no error");
  const struct {
    const char* device;
    const char* reason;
  } rows[] = {
      {"bogus", "'bogus' is not a valid device model name"},
      {"virtio-blk-pci", "drive property not set"},
      {"virtio-blk-pci,drive=x", "Property 'virtio-blk-device.drive' can't find value 'x'"},
      {"virtio-blk-pci,drive=empty", "Device needs media, but drive is empty"},
      {"virtio-blk-pci,drive=n1,bogus=1", "Property 'virtio-blk-pci.bogus' not found"},
      {"virtio-blk-pci,drive=n1,iothread=x", "Device 'x' not found"},
      {"virtio-blk-pci,drive=n1,id=vd0", "Duplicate device ID 'vd0'"},
      {"virtio-blk-pci,drive=n1,bus=x", "Bus 'x' not found"},
      {"virtio-blk-pci,drive=n1,addr=32", "Property 'virtio-blk-pci.addr' doesn't take value '32'"},
      {"virtio-blk-pci,drive=n1,addr=1.1",
       "Property 'virtio-blk-pci.addr' doesn't take value '1.1'"},
      {"virtio-blk-pci,drive=n1,addr=-1", "Property 'virtio-blk-pci.addr' doesn't take value '-1'"},
      {"virtio-blk-pci,drive=n1,addr=", "Property 'virtio-blk-pci.addr' doesn't take value ''"},
      {"virtio-blk-pci,drive=n1,addr=0x5.0",
       "PCI: slot 5 function 0 not available for virtio-blk-pci, in use by vd0"},
      {"virtio-blk-pci,drive=n1,num-queues=0", "num-queues property must be larger than 0"},
      {"virtio-blk-pci,drive=n1,queue-size=3",
       "invalid queue-size property (3), must be a power of 2 (max 1024)"},
      {"virtio-blk-pci,drive=n1,logical_block_size=3",
       "Property .logical_block_size doesn't take value 3 (minimum: 512, maximum: 32768)"},
      {"virtio-blk-pci,drive=n1,logical_block_size=4096,physical_block_size=512",
       "logical_block_size > physical_block_size not supported"},
      {"virtio-blk-pci,drive=n1,serial=123456789012345678901",
       "Property 'serial' is longer than 20 bytes"},
      {"virtio-blk-pci,drive=n1,rerror=enospc",
       "Parameter 'rerror' does not accept value 'enospc'"},
      {"virtio-blk-pci,drive=n1,werror=x", "Parameter 'werror' does not accept value 'x'"},
      {"virtio-blk-pci,drive=n1,write-cache=x",
       "Parameter 'write-cache' does not accept value 'x'"},
  };
  for (const auto& row : rows) {
    INFO(row.device);
    CHECK(f.plug(row.device) == row.reason);
  }
  CHECK_THAT(f.plug("virtio-blk-pci,id=vd1,drive=n0"),
             Catch::Contains("Permission conflict on node 'n0'"));
  CHECK(f.ask("blockdev-del", R"({"node-name":"n1"})") == "{}");
  CHECK(f.ask("object-del", R"({"id":"iot0"})") == "{}");
  CHECK(f.answer("query-block").size() == 2);
  CHECK(f.plug("virtio-blk-pci,id=vd1,drive=n2,addr=1f,bus=pci.0") == "no error");
  CHECK(f.at(31)->id() == "vd1");
}

TEST_CASE("Disks: an error reaches the machine, and going on forgets it", "[userdevices]") {
  Fixture f("-drive driver=null-co,if=none,id=e0,werror=stop");
  REQUIRE(f.plug("virtio-blk-pci,id=vd0,drive=e0") == "no error");
  FakeMachine machine;
  Disks& disks = f.storage().disks();
  disks.set_machine(&machine);
  const auto fail_with = [&](OnIoError action, int number) {
    bql.assert_held();
    disks.find_drive("e0")->io_error({.device = "vd0",
                                      .node = "n",
                                      .operation = IoError::Operation::kWrite,
                                      .action = action,
                                      .os_errno = number,
                                      .reason = "why"});
  };
  const auto status = [&] { return f.answer("query-block")[0]["io-status"]; };
  fail_with(OnIoError::kReport, EIO);
  CHECK(status() == "ok");
  fail_with(OnIoError::kStop, ENOSPC);
  REQUIRE(machine.errors.size() == 2);
  CHECK(machine.errors[1].drive_id == "e0");
  CHECK(machine.errors[1].qdev == "/machine/peripheral/vd0/virtio-backend");
  CHECK(machine.errors[1].tracks_status);
  CHECK(status() == "nospace");
  // The first error is the one that shows.
  fail_with(OnIoError::kStop, EIO);
  CHECK(status() == "nospace");
  disks.resumed();
  CHECK(status() == "ok");
  fail_with(OnIoError::kStop, EIO);
  CHECK(status() == "failed");
}

TEST_CASE("Vm: a disk's error stops the machine after it was told, and cont goes on",
          "[userdevices]") {
  struct Observer final : VmObserver {
    void disk_error(const DiskError& error) override { seen += error.error.reason + " "; }
    void stopped() override { seen += "stop "; }
    void resumed() override { seen += "resume "; }
    std::string seen;
  } observer;
  const RcuThread rcu_thread;
  const BqlGuard guard;
  const auto loop = MUST(MainLoop::create());
  const HostClock host_clock;
  VmClock clock(host_clock, VmClock::Mode::kStepped);
  QtestAccel accel(loop->service(), clock);
  const VmConfig config;
  Vm vm(config, {*loop, accel, clock});
  vm.add_observer(observer);
  const auto error = [&](OnIoError action, const char* reason) {
    bql.assert_held();
    vm.disk_error({.drive_id = {},
                   .qdev = {},
                   .tracks_status = true,
                   .error = {.device = {}, .node = {}, .action = action, .reason = reason}});
  };
  MUST(vm.cont());
  error(OnIoError::kReport, "A");
  CHECK(vm.state() == RunState::kRunning);
  error(OnIoError::kStop, "B");
  CHECK(vm.state() == RunState::kIoError);
  error(OnIoError::kStop, "C");
  MUST(vm.cont());
  CHECK(vm.state() == RunState::kRunning);
  CHECK(observer.seen == "resume A B stop C resume ");
}
