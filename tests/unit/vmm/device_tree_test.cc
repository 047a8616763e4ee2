// The tree of -device's devices, with buses and devices that only write down what is done to them.
#include <array>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "devices/pci_device.h"
#include "tests/unit/vmm/devices_fixture.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::DevicesFixture;

namespace {

/// What was done, in order. The rows' makers are plain functions, so it has no owner.
std::vector<std::string> done;
std::vector<std::string> take_done() { return std::exchange(done, {}); }
/// What fails: "plug u0".
std::string failing;

Result<void> perform(const std::string& what) {
  if (what == failing) return fail(ErrorKind::kTimeout, "{} does not end", what);
  done.push_back(what);
  return ok();
}

struct FakePlace final : BusDevice {
  explicit FakePlace(std::string called) : name(std::move(called)) {}
  Result<void> plug() override REQUIRES(bql) { return perform("plug " + name); }
  void prepare_to_leave(std::function<void()>) override REQUIRES(bql) {}
  bool idle() const override REQUIRES(bql) { return true; }
  Result<void> leave() override REQUIRES(bql) { return perform("leave " + name); }
  void stay() override REQUIRES(bql) {}
  void unplug() override REQUIRES(bql) { done.push_back("unplug " + name); }
  std::optional<unsigned> hotplug_slot() const override REQUIRES(bql) { return std::nullopt; }
  std::string location() const override { return name; }
  devices::Device* saved() const override { return nullptr; }
  std::string settings() const override REQUIRES(bql) { return {}; }
  const std::string name;
};

/// Has room for one that does not care where.
struct FakeBus final : DeviceBus {
  explicit FakeBus(std::string name) : name_(std::move(name)) {}
  BusKind kind() const noexcept override { return BusKind::kScsi; }
  const std::string& name() const noexcept override { return name_; }
  bool has_room() const override REQUIRES(bql) { return used == 0; }
  Result<std::unique_ptr<BusDevice>> make(const DeviceRow&, DeviceRequest& request) override
      REQUIRES(bql) {
    if (used != 0 && !request.options().has("lun")) {
      return fail(ErrorKind::kResource, "{} is full", name_);
    }
    MUST(request.options().take_uint("lun"));
    ++used;
    return std::make_unique<FakePlace>(name_ + "/" + request.name());
  }
  const std::string name_;
  unsigned used = 0;
};

/// A device on PCI with a bus for others.
struct Adapter final : devices::PciDevice {
  explicit Adapter(const std::string& id)
      : PciDevice(id, devices::PciIdentity{.vendor = 1, .device = 1}) {}
  Result<void> do_realize() override REQUIRES(bql) { return perform("plug " + id()); }
  void do_unrealize() override REQUIRES(bql) { done.push_back("unplug " + id()); }
};

Result<std::shared_ptr<devices::PciDevice>> make_adapter(DeviceRequest& request) {
  request.add_part("virtio-backend");
  request.add_bus(std::make_unique<FakeBus>(request.id() + ".0"));
  return std::make_shared<Adapter>(request.id());
}

Result<std::shared_ptr<devices::ScsiUnit>> make_unit(DeviceRequest&, const devices::ScsiAddress&) {
  RHEA_UNREACHABLE("the bus makes its own");
}

const std::array kRows{DeviceRow{"adapter", BusKind::kPci, "", {}, make_adapter},
                       DeviceRow{"unit", BusKind::kScsi, "", {}, make_unit}};

struct Fixture : DevicesFixture {
  Fixture() : DevicesFixture("", kRows) {
    done.clear();
    failing.clear();
  }
  std::vector<std::string> leaving_with(std::string_view name) {
    std::vector<std::string> names;
    for (const UserDevice* device : devices().leaving_with(*devices().find(name))) {
      names.push_back(device->request().name());
    }
    return names;
  }
};

using Strings = std::vector<std::string>;

}  // namespace

TEST_CASE("DeviceTree: a device finds the bus that it names, or the first with room",
          "[userdevices]") {
  Fixture f;
  CHECK(f.plug("unit") == "No 'SCSI' bus found for device 'unit'");
  REQUIRE(f.plug("adapter,id=a") == "no error");
  REQUIRE(f.plug("adapter,id=b") == "no error");
  CHECK(f.plug("unit,bus=x") == "Bus 'x' not found");
  CHECK(f.plug("unit,bus=pci.0") == "Device 'unit' can't go on PCI bus");
  CHECK(f.plug("adapter,bus=a.0") == "Device 'adapter' can't go on SCSI bus");
  CHECK(f.plug("adapter,lun=1") == "Property 'adapter.lun' not found");
  CHECK(f.plug("unit,addr=1") == "Property 'unit.addr' not found");
  take_done();
  REQUIRE(f.plug("unit,id=u0") == "no error");
  REQUIRE(f.plug("unit,id=u1") == "no error");
  CHECK(take_done() == Strings{"plug a.0/u0", "plug b.0/u1"});
  CHECK(f.plug("unit,id=u2") == "a.0 is full");
  CHECK(f.plug("unit,id=u2,bus=b.0") == "b.0 is full");
  REQUIRE(f.plug("unit,id=u2,bus=b.0,lun=5") == "no error");
  CHECK(take_done() == Strings{"plug b.0/u2"});
  CHECK(f.plug("unit,id=a,lun=6") == "Duplicate device ID 'a'");
  CHECK(f.plug("adapter,id=u1") == "Duplicate device ID 'u1'");
}

TEST_CASE("DeviceTree: what sits on a device's bus goes before the device", "[userdevices]") {
  Fixture f;
  for (const char* device : {"adapter,id=a", "unit,id=u0", "adapter,id=b", "unit,id=u1,bus=b.0",
                             "unit,id=u2,bus=a.0,lun=1"}) {
    REQUIRE(f.plug(device) == "no error");
  }
  take_done();
  CHECK(f.leaving_with("a") == Strings{"u2", "u0", "a"});
  CHECK(f.leaving_with("u1") == Strings{"u1"});
  CHECK(f.unplug("a") == "no error");
  CHECK(take_done() == Strings{"unplug a.0/u2", "unplug a.0/u0", "unplug a"});
  for (const char* gone : {"a", "u0", "u2"}) CHECK(f.devices().find(gone) == nullptr);
  CHECK(f.unplug("u1") == "no error");
  CHECK(take_done() == Strings{"leave b.0/u1", "unplug b.0/u1"});
  // All the names are free.
  for (const char* device : {"adapter,id=a", "unit,id=u0,bus=a.0", "unit,id=u1,bus=b.0,lun=1"}) {
    CHECK(f.plug(device) == "no error");
  }
  take_done();
  f.unplug_all();
  CHECK(take_done() == Strings{"unplug b.0/u1", "unplug a.0/u0", "unplug a", "unplug b"});
}

TEST_CASE("DeviceTree: a device whose requests do not end stays", "[userdevices]") {
  Fixture f;
  REQUIRE(f.plug("adapter,id=a") == "no error");
  REQUIRE(f.plug("unit,id=u0") == "no error");
  take_done();
  failing = "leave a.0/u0";
  CHECK(f.unplug("u0") == "leave a.0/u0 does not end");
  CHECK(take_done().empty());
  CHECK(f.plug("adapter,id=u0") == "Duplicate device ID 'u0'");
  failing.clear();
  CHECK(f.unplug("u0") == "no error");
}

TEST_CASE("DeviceTree: a device that can not be plugged in leaves nothing behind",
          "[userdevices]") {
  Fixture f;
  REQUIRE(f.plug("adapter,id=a") == "no error");
  failing = "plug a.0/u0";
  CHECK(f.plug("unit,id=u0") == "plug a.0/u0 does not end");
  CHECK(f.devices().find("u0") == nullptr);
  failing = "plug b";
  CHECK(f.plug("adapter,id=b") == "plug b does not end");
  CHECK(f.plug("unit,id=u0,bus=b.0") == "Bus 'b.0' not found");
  CHECK(f.at(3) == nullptr);
  failing.clear();
  CHECK(f.plug("adapter,id=b") == "no error");
}

TEST_CASE("DeviceTree: a device's parts have their paths", "[userdevices]") {
  Fixture f;
  REQUIRE(f.plug("adapter,id=a") == "no error");
  REQUIRE(f.plug("adapter") == "no error");
  const auto parts = [&](std::string_view name) {
    return f.devices().find(name)->request().parts();
  };
  REQUIRE(parts("a").size() == 1);
  CHECK(parts("a")[0] == "/machine/peripheral/a/virtio-backend");
  CHECK(parts("/machine/peripheral-anon/device[0]")[0] ==
        "/machine/peripheral-anon/device[0]/virtio-backend");
  CHECK(f.unplug("/machine/peripheral/a") == "no error");
}
