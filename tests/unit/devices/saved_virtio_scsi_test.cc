// A SCSI host adapter, its bus and its units on their way to another machine.
#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "devices/scsi/scsi_cd.h"
#include "devices/scsi/scsi_hd.h"
#include "tests/unit/devices/saved_device_fixture.h"
#include "tests/unit/devices/scsi_fixture.h"
#include "tests/unit/devices/virtio_scsi_adapter.h"

using namespace rhea;
using namespace rhea::devices;
using test::FakeUnit;
using Adapter = test::VirtioScsiAdapter;
using WholeState = VirtioWholeState<VirtioScsiState>;

namespace {

constexpr uint64_t kCdbSize = 0x2000 + 24;

struct TraySink final : ScsiTraySink {
  void tray_moved(const std::string&, ScsiTrayPosition) override REQUIRES(bql) { ++moves; }
  int moves = 0;
};

/// What goes to another machine.
struct Moved {
  std::vector<uint8_t> state;
  std::vector<std::byte> ram;
  std::vector<test::GuestQueue> queues;
};
/// Once the machine has stopped and nothing is under way.
Moved save(Adapter& adapter) {
  bql.assert_held();
  adapter.scsi->machine_stopped();
  adapter.turn_until([&] { return !adapter.scsi->busy(); });
  const std::byte* ram = adapter.machine().ram();
  return {.state = adapter.pci->save(),
          .ram = {ram, ram + Adapter::kPages + 64 * Adapter::kPage},
          .queues = adapter.queues()};
}
Result<void> load(Adapter& adapter, const Moved& from) {
  bql.assert_held();
  std::byte* ram = adapter.machine().ram();
  std::ranges::copy(from.ram, ram);
  adapter.queues().clear();
  for (unsigned i = 0; i < from.queues.size(); ++i) {
    adapter.queues().push_back(from.queues[i].moved_to(ram, adapter.scsi->kick_fd(i)));
  }
  return adapter.pci->load("virtio-scsi-pci", 1, from.state);
}

/// A base, so that it outlives the drive, which tells of its moves to the end.
struct HasSink {
  TraySink sink;
};

/// A CD drive, or a disk, on a node.
struct Cd : HasSink, test::ScsiFixture<ScsiCd> {
  explicit Cd(std::string node = "d0") {
    add("driver=test-disk,node-name=d0,read-only=on,size=2048000");
    ScsiCdConfig config;
    config.node = std::move(node);
    make(config, sink);
  }
};
struct Hd : test::ScsiFixture<ScsiHd> {
  Hd() {
    add("driver=test-disk,node-name=d0,size=1M");
    ScsiHdConfig config;
    config.node = "d0";
    make(config);
  }
};

}  // namespace

TEST_CASE("VirtioScsi: attentions, known LUNs, events and sizes are there after a load",
          "[virtio-scsi][saved]") {
  std::optional<Moved> moved;
  {
    Adapter adapter;
    const auto unit = adapter.add(0);
    adapter.start();
    adapter.driver().store(kCdbSize, 16, 4);
    // Its power-on condition is told; then the LUNs are read, and another comes.
    adapter.write_command(0, {0}, Adapter::lun(0), 0, 16);
    adapter.requests().offer(Adapter::chain(0, 0, 0, 96, 16));
    adapter.requests().ring();
    REQUIRE(adapter.answer(0, adapter.wait_used(adapter.requests())).sense[12] == 0x29);
    adapter.write_command(0, {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64}, Adapter::lun(0), 0, 16);
    adapter.requests().offer(Adapter::chain(0, 0, 64, 96, 16));
    adapter.requests().ring();
    adapter.wait_used(adapter.requests());
    adapter.add(1);
    unit->attention(sense::kCapacityChanged);
    moved.emplace(save(adapter));
  }
  Adapter adapter;
  bql.assert_held();
  adapter.add(0);
  adapter.add(1);
  REQUIRE(load(adapter, *moved).has_value());
  adapter.pci->resume_loaded();
  CHECK(adapter.driver().load(kCdbSize, 4) == 16);
  const auto next_asc = [&] {
    adapter.write_command(1, {0}, Adapter::lun(0), 0, 16);
    adapter.requests().offer(Adapter::chain(1, 0, 0, 96, 16));
    adapter.requests().ring();
    const auto answer = adapter.answer(1, adapter.wait_used(adapter.requests()));
    return answer.status == 2 ? answer.sense.at(12) : 0;
  };
  CHECK(next_asc() == 0x3f);
  CHECK(next_asc() == 0x2a);
  CHECK(next_asc() == 0);
  adapter.offer_event(2);
  adapter.offer_event(3);
  adapter.wait_used(adapter.events());
  adapter.wait_used(adapter.events());
  CHECK(adapter.event(2).event == 1);
  CHECK(adapter.event(3).event == 3);
  // Who has read the LUNs hears of the next one too.
  adapter.add(2);
  CHECK(next_asc() == 0x3f);
}

TEST_CASE("VirtioScsi: a command that waits for the machine is carried out on the other side",
          "[virtio-scsi][saved]") {
  std::optional<Moved> moved;
  {
    Adapter adapter;
    const auto unit = adapter.add(0);
    adapter.start();
    adapter.command({0}, Adapter::lun(0));  // the power-on condition
    adapter.offer(4, {FakeUnit::kPark}, Adapter::lun(0));
    adapter.turn_until([&] { return unit->waiting() == 1; });
    moved.emplace(save(adapter));
  }
  Adapter adapter;
  bql.assert_held();
  const auto unit = adapter.add(0);
  REQUIRE(load(adapter, *moved).has_value());
  adapter.round_the_contexts();
  CHECK(unit->executed == 0);
  adapter.pci->resume_loaded();
  adapter.turn_until([&] { return unit->waiting() == 1; });
  unit->let_go();
  const auto answer = adapter.answer(4, adapter.wait_used(adapter.requests()));
  CHECK(answer.response == VirtioScsiResponse::kOk);
  CHECK(answer.status == 0);
}

TEST_CASE("VirtioScsi: every queue has heard of the stop when the machine has stopped",
          "[virtio-scsi][saved]") {
  Adapter adapter(2);
  bql.assert_held();
  adapter.start();
  for (const unsigned queue : {2U, 3U}) {
    // Busy from before the stop until it has been told of it.
    adapter.scsi->queue(queue).context().post([&adapter] {
      while (!adapter.scsi->pausing()) {
      }
    });
  }
  adapter.scsi->machine_stopped();
  CHECK_FALSE(adapter.scsi->pausing());
  adapter.scsi->machine_runs();
}

TEST_CASE("VirtioScsi: a state that the adapter can not be in is refused",
          "[virtio-scsi][saved][sweep]") {
  struct Row {
    const char* field;
    void (*spoil)(VirtioScsiState&);
  };
  Adapter adapter;
  bql.assert_held();
  adapter.add(0);
  adapter.scsi->machine_stopped();
  const auto good = test::state_of<WholeState>(*adapter.pci);
  REQUIRE(good.device.bus.units.size() == 1);
  for (const Row& row : {
           Row{"sense_size", [](auto& s) { s.sense_size = 253; }},
           Row{"cdb_size", [](auto& s) { s.cdb_size = 1 << 20; }},
           Row{"waiting", [](auto& s) { s.events.waiting.resize(1); }},
           Row{"waiting", [](auto& s) { s.events.missed = true; }},
           Row{"units", [](auto& s) { s.bus.units.clear(); }},
           Row{"units[0]", [](auto& s) { s.bus.units[0].lun = 1; }},
           Row{"attentions", [](auto& s) { s.bus.units[0].attentions = {{1, 2}, {1, 2}}; }},
           Row{"luns_read", [](auto& s) { s.bus.luns_read = {{1, 0}}; }},
       }) {
    WholeState state = good;
    CHECK(test::refusal(*adapter.pci, state).empty());
    row.spoil(state.device);
    CAPTURE(row.field);
    const std::string message = test::refusal(*adapter.pci, state);
    CHECK(message.starts_with("scsi0: field '"));
    CHECK(message.find(row.field) != std::string::npos);
  }
}

TEST_CASE("ScsiCd: tray, lock and what the guest has not heard are as they were",
          "[scsi][cd][saved]") {
  ScsiUnitState state;
  {
    Cd cd;
    bql.assert_held();
    REQUIRE(cd.run({0x1e, 0, 0, 0, 1, 0}).good());
    REQUIRE_FALSE(cd.unit->open_tray(ScsiCd::Force::kNo).has_value());
    REQUIRE(cd.unit->open_tray(ScsiCd::Force::kYes).has_value());
    state = cd.unit->state();
  }
  Cd cd;
  bql.assert_held();
  REQUIRE(cd.unit->check_state(state).has_value());
  cd.unit->set_state(state);
  CHECK(cd.run({0, 0, 0, 0, 0, 0}).failed(sense::kNoMediumTrayOpen));
  CHECK(cd.unit->tray().locked());
  CHECK(cd.run({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, {}, 8).in.at(4) == 3);  // removal
  cd.unit->close_tray();
  CHECK(cd.run({0x1b, 0, 0, 0, 2, 0}).failed(sense::kRemovalPrevented));
  CHECK(cd.sink.moves == 1);  // of the load nobody is told
}

TEST_CASE("ScsiCd: a drive without the medium that the state has refuses it", "[scsi][cd][saved]") {
  ScsiUnitState state;
  {
    Cd cd;
    bql.assert_held();
    state = cd.unit->state();
    ScsiUnitState bad = state;
    bad.medium_event = 1;
    CHECK_FALSE(cd.unit->check_state(bad).has_value());
  }
  Cd cd("");
  bql.assert_held();
  CHECK(cd.unit->check_state(state).error().message() ==
        "field 'unit.has_medium': true, but 'lun0' has no medium");
}

TEST_CASE("SCSI units: what has to be equal on the other side is said, as it is now",
          "[scsi][cd][saved]") {
  {
    Hd hd;
    bql.assert_held();
    CHECK(hd.unit->settings() == "block_size=512");
  }
  Cd cd;
  bql.assert_held();
  CHECK(cd.unit->settings() == "block_size=2048 medium=yes");
  REQUIRE(cd.unit->open_tray(ScsiCd::Force::kNo).has_value());
  CHECK(cd.unit->settings() == "block_size=2048 medium=yes");
  REQUIRE(cd.unit->set_medium(nullptr).has_value());
  CHECK(cd.unit->settings() == "block_size=2048 medium=no");
}

TEST_CASE("ScsiHd: the write cache is as the guest chose it, and a tray is refused",
          "[scsi][saved]") {
  Hd hd;
  bql.assert_held();
  ScsiUnitState state = hd.unit->state();
  REQUIRE(state.write_cache);
  state.write_cache = false;
  REQUIRE(hd.unit->check_state(state).has_value());
  hd.unit->set_state(state);
  CHECK_FALSE(hd.unit->backend().write_cache());
  CHECK(hd.unit->state() == state);
  state.tray_open = true;
  CHECK_FALSE(hd.unit->check_state(state).has_value());
}
