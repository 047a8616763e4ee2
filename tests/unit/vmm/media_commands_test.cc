#include "vmm/qmp/media_commands.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "block/backend.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/vmm/storage_fixture.h"

using namespace rhea;
using namespace rhea::vmm;
using rhea::test::StorageFixture;
using rhea::test::TempDir;

namespace {

/// Does as it is told, and tells the disk.
struct FakeTray final : DiskTray {
  FakeTray(Gs& with, Disk& of, block::BlockBackend& through)
      : gs(with), disk(of), backend(through) {}
  TrayPosition position() const override REQUIRES(bql) { return at; }
  bool locked() const override REQUIRES(bql) { return is_locked; }
  Result<void> open(Force force) override REQUIRES(bql) {
    if (at == TrayPosition::kOpen) return ok();
    if (is_locked && force == Force::kNo) {
      ++requests;
      return fail(ErrorKind::kBusy, "the guest holds it");
    }
    at = TrayPosition::kOpen;
    disk.tray_moved("cd0", at);
    return ok();
  }
  void close() override REQUIRES(bql) {
    if (std::exchange(at, TrayPosition::kClosed) == TrayPosition::kOpen) disk.tray_moved("cd0", at);
  }
  Result<void> set_medium(block::Node* node) override REQUIRES(bql) {
    return node != nullptr ? backend.insert(gs, *node) : backend.remove(gs);
  }
  Gs& gs;
  Disk& disk;
  block::BlockBackend& backend;
  TrayPosition at = TrayPosition::kClosed;
  bool is_locked = false;
  unsigned requests = 0;
};

/// A device `cd0` with a tray, and what DEVICE_TRAY_MOVED said.
class Fixture : public StorageFixture {
 public:
  explicit Fixture(std::string_view line, const std::optional<std::string>& drive = std::nullopt)
      : StorageFixture(line),
        backend_(graph(), "cd0", {block::Perm::kConsistentRead, block::Perm::kAll}) {
    disk_ = MUST(storage().disks().attach(gs(), drive,
                                          {.driver = "scsi-cd",
                                           .qdev = "cd0",
                                           .device_id = "cd0",
                                           .device_path = "/machine/peripheral/cd0",
                                           .medium = DiskUse::Medium::kOptional}));
    disk_->set_backend(&backend_);
    auto made = std::make_unique<FakeTray>(gs(), *disk_, backend_);
    tray_ = made.get();
    disk_->set_tray(std::move(made));
    if (block::Node* node = graph().find(gs(), disk_->node_name())) {
      MUST(backend_.insert(gs(), *node));
    }
    storage().disks().set_tray_listener([this](const Disk& disk, TrayPosition to) {
      std::string event;
      append_json(event, tray_json(disk, to));
      moved.push_back(event);
    });
  }
  ~Fixture() {
    MUST(backend_.remove(gs()));
    backend_.close();
    storage().disks().detach(gs(), *disk_);
  }

  FakeTray& tray() { return *tray_; }
  /// Of cd0, the last of the list.
  ReplyJson shown() { return answer("query-block").back(); }
  std::vector<std::string> take_moved() { return std::exchange(moved, {}); }

  std::vector<std::string> moved;

 private:
  block::BlockBackend backend_;
  Disk* disk_ = nullptr;
  FakeTray* tray_ = nullptr;
};

constexpr const char* kCd = R"({"id":"cd0"})";
constexpr const char* kForced = R"({"id":"cd0","force":true})";
const std::string kOpened = R"({"device": "", "id": "cd0", "tray-open": true})";
const std::string kClosed = R"({"device": "", "id": "cd0", "tray-open": false})";
const std::string kLocked = "GenericError: the guest holds it";
using Strings = std::vector<std::string>;

std::string in_file(const TempDir& dir, const char* name, size_t size) {
  std::ofstream(dir.file(name)) << std::string(size, 'x');
  return dir.file(name);
}

}  // namespace

TEST_CASE("query-block: an empty drive shows no medium", "[media]") {
  Fixture f("");
  CHECK(f.ask("query-block") ==
        R"([{"device": "", "qdev": "cd0", "type": "unknown", "removable": true, )"
        R"("locked": false, "tray_open": false, "io-status": "ok"}])");
  f.tray().is_locked = true;
  f.tray().at = TrayPosition::kOpen;
  CHECK(f.shown()["locked"] == true);
  CHECK(f.shown()["tray_open"] == true);
  const auto stats = f.answer("query-blockstats");
  CHECK(stats[0]["qdev"] == "cd0");
  CHECK_FALSE(stats[0].contains("node-name"));
}

TEST_CASE("eject: the tray opens and the medium is gone", "[media]") {
  Fixture f("-blockdev null-co,node-name=n0,read-only=on", "n0");
  CHECK(f.shown()["inserted"]["node-name"] == "n0");
  CHECK(f.ask("eject", kCd) == "{}");
  CHECK(f.take_moved() == Strings{kOpened});
  CHECK_FALSE(f.shown().contains("inserted"));
  CHECK(f.shown()["tray_open"] == true);
  CHECK(f.ask("blockdev-del", R"({"node-name":"n0"})") == "{}");
  // There is nothing more to do.
  CHECK(f.ask("eject", R"({"id":"/machine/peripheral/cd0"})") == "{}");
  CHECK(f.take_moved().empty());
}

TEST_CASE("eject: a guest that holds the medium is asked, or forced", "[media]") {
  Fixture f("-blockdev null-co,node-name=n0", "n0");
  f.tray().is_locked = true;
  CHECK(f.ask("eject", kCd) == kLocked);
  CHECK(f.tray().requests == 1);
  CHECK(f.ask("blockdev-open-tray", kCd) == "{}");
  CHECK(f.tray().requests == 2);
  CHECK(f.take_moved().empty());
  CHECK(f.ask("blockdev-change-medium", R"({"id":"cd0","filename":"null-co://"})") == kLocked);
  CHECK(f.shown()["inserted"]["node-name"] == "n0");
  f.graph().close_unused(f.gs());
  CHECK(f.answer("query-named-block-nodes").size() == 1);
  CHECK(f.ask("eject", kForced) == "{}");
  CHECK(f.tray().requests == 3);
  CHECK(f.take_moved() == Strings{kOpened});
  CHECK_FALSE(f.shown().contains("inserted"));
}

TEST_CASE("A medium changes step by step", "[media]") {
  Fixture f("-blockdev null-co,node-name=n0 -blockdev null-co,node-name=n1", "n0");
  const char* insert = R"({"id":"cd0","node-name":"n1"})";
  CHECK(f.ask("blockdev-remove-medium", kCd) == "GenericError: Tray of device 'cd0' is not open");
  CHECK(f.ask("blockdev-insert-medium", insert) == "GenericError: Tray of the device is not open");
  CHECK(f.ask("blockdev-open-tray", kCd) == "{}");
  CHECK(f.ask("blockdev-open-tray", kCd) == "{}");
  CHECK(f.take_moved() == Strings{kOpened});
  CHECK(f.ask("blockdev-insert-medium", insert) ==
        "GenericError: There already is a medium in the device");
  CHECK(f.ask("blockdev-insert-medium", R"({"id":"cd0","node-name":"n0"})") ==
        "GenericError: Node 'n0' is already in use");
  CHECK(f.ask("blockdev-insert-medium", R"({"id":"cd0","node-name":"x"})") ==
        "GenericError: Node 'x' not found");
  CHECK(f.ask("blockdev-remove-medium", kCd) == "{}");
  CHECK(f.ask("blockdev-remove-medium", kCd) == "{}");
  CHECK(f.ask("blockdev-insert-medium", insert) == "{}");
  CHECK(f.shown()["inserted"]["node-name"] == "n1");
  CHECK(f.ask("blockdev-close-tray", kCd) == "{}");
  CHECK(f.ask("blockdev-close-tray", kCd) == "{}");
  CHECK(f.take_moved() == Strings{kClosed});
  CHECK(f.ask("blockdev-del", R"({"node-name":"n0"})") == "{}");
  CHECK(f.ask("blockdev-del", R"({"node-name":"n1"})") == "GenericError: Node n1 is in use");
}

TEST_CASE("blockdev-change-medium: a file replaces what there was", "[media]") {
  const TempDir dir;
  const std::string a = in_file(dir, "a.iso", 4096), b = in_file(dir, "b.iso", 8192);
  Fixture f("");
  const auto change = [&](const std::string& name, std::string_view more) {
    return f.ask("blockdev-change-medium",
                 fmt::format(R"({{"id":"cd0","filename":"{}"{}}})", name, more));
  };
  CHECK(change(a, R"(,"format":"raw")") == "{}");
  CHECK(f.take_moved() == Strings{kOpened, kClosed});
  CHECK(f.shown()["inserted"]["file"] == a);
  CHECK(f.shown()["inserted"]["ro"] == true);
  CHECK(change(b, R"(,"format":"raw","read-only-mode":"read-write")") == "{}");
  CHECK(f.shown()["inserted"]["image"]["virtual-size"] == 8192);
  CHECK(f.shown()["inserted"]["ro"] == false);
  CHECK(change(a, R"(,"format":"file","read-only-mode":"retain")") == "{}");
  CHECK(f.shown()["inserted"]["drv"] == "file");
  CHECK(f.shown()["inserted"]["ro"] == false);
  CHECK(change("null-co://", R"(,"read-only-mode":"read-only")") == "{}");
  f.take_moved();
  // A mistake leaves all as it was.
  CHECK(change("/nope", "") == "GenericError: Could not open '/nope': No such file or directory");
  CHECK(change(a, R"(,"format":"bogus")") == "GenericError: Unknown driver 'bogus'");
  CHECK(change(a, R"(,"read-only-mode":"x")") ==
        "GenericError: Parameter 'read-only-mode' does not accept value 'x'");
  CHECK(f.take_moved().empty());
  CHECK(f.shown()["inserted"]["file"] == "null-co://");
  // Those that were taken out have gone for good.
  CHECK(f.ask("eject", kCd) == "{}");
  CHECK(f.ask("query-named-block-nodes") == "[]");
}

TEST_CASE("eject: a drive without a device lets its medium go", "[media]") {
  Fixture f("-drive if=none,id=free,driver=null-co");
  const char* free = R"({"device":"free"})";
  CHECK(f.answer("query-block")[0]["removable"] == true);
  CHECK(f.ask("blockdev-open-tray", free) == "{}");
  CHECK(f.ask("eject", free) == "{}");
  CHECK(f.ask("query-named-block-nodes") == "[]");
  CHECK(f.ask("blockdev-change-medium", R"({"device":"free","filename":"null-co://"})") == "{}");
  CHECK(f.answer("query-block")[0]["inserted"]["file"] == "null-co://");
  CHECK(f.take_moved().empty());
}

TEST_CASE("eject: mistakes are named as QEMU does", "[media]") {
  Fixture f("-drive if=none,id=d0,driver=null-co -blockdev null-co,node-name=n0");
  block::BlockBackend backend(f.graph(), "hd0", {});
  Disk* disk = MUST(f.storage().disks().attach(f.gs(), "d0", {.driver = "scsi-hd", .qdev = "hd0"}));
  disk->set_backend(&backend);
  const std::string fixed = "GenericError: Device 'd0' is not removable";
  for (const char* command :
       {"eject", "blockdev-open-tray", "blockdev-close-tray", "blockdev-remove-medium"}) {
    INFO(command);
    CHECK(f.ask(command, R"({"device":"d0"})") == fixed);
    CHECK(f.ask(command) == "GenericError: Need exactly one of 'device' and 'id'");
    CHECK(f.ask(command, R"({"id":"cd0","device":"d0"})") ==
          "GenericError: Need exactly one of 'device' and 'id'");
    CHECK(f.ask(command, R"({"id":"x"})") == "DeviceNotFound: Device 'x' not found");
    CHECK(f.ask(command, R"({"device":"cd0"})") == "DeviceNotFound: Device 'cd0' not found");
    CHECK(f.ask(command, R"({"id":"hd0","bogus":1})") ==
          "GenericError: Parameter 'bogus' is unexpected");
  }
  CHECK(f.ask("blockdev-insert-medium", R"({"device":"d0","node-name":"n0"})") == fixed);
  CHECK(f.ask("blockdev-change-medium", R"({"device":"d0","filename":"null-co://"})") == fixed);
  CHECK(f.ask("blockdev-change-medium", R"({"id":"cd0"})") ==
        "GenericError: Parameter 'filename' is missing");
  backend.close();
  f.storage().disks().detach(f.gs(), *disk);
}
