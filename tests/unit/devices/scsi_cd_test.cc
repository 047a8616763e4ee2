#include "devices/scsi/scsi_cd.h"

#include <catch2/catch.hpp>

#include "tests/unit/devices/scsi_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using test::operator+;
using test::scsi_be;
using test::scsi_cdb10;
using test::ScsiReplied;
using Bytes = test::ScsiBytes;

namespace {

constexpr uint32_t kBlocks = 1000;

struct TraySink final : ScsiTraySink {
  void tray_moved(const std::string& device, ScsiTrayPosition now) override REQUIRES(bql) {
    CHECK(device == "lun0");
    moves += now == ScsiTrayPosition::kOpen ? 'o' : 'c';
  }
  std::string moves;
};

/// A base, so that it outlives the drive, which tells of its moves to the end.
struct HasSink {
  TraySink sink;
};

/// A drive, with a disc of 1000 blocks in it or without.
struct Cd : HasSink, test::ScsiFixture<ScsiCd> {
  enum class With : uint8_t { kDisc, kNothing };
  explicit Cd(With with = With::kDisc, std::string_view size = "2048000") {
    disc = &add("driver=test-disk,node-name=d0,read-only=on,size=" + std::string(size));
    ScsiCdConfig config;
    if (with == With::kDisc) config.node = "d0";
    make(config, sink);
  }
  Result<void> open(ScsiCd::Force force = ScsiCd::Force::kNo) {
    bql.assert_held();
    return unit->open_tray(force);
  }
  void close() {
    bql.assert_held();
    unit->close_tray();
  }
  Result<void> set_medium(block::Node* node) {
    bql.assert_held();
    return unit->set_medium(node);
  }
  ScsiReplied ready() { return run(Bytes{0, 0, 0, 0, 0, 0}); }
  void lock(bool on) { CHECK(run(Bytes{0x1e, 0, 0, 0, static_cast<uint8_t>(on), 0}).good()); }
  ScsiReplied start_stop(uint8_t what) { return run(Bytes{0x1b, 0, 0, 0, what, 0}); }
  /// The event and the status of the medium.
  Bytes event(uint16_t room = 8) {
    return run(Bytes{0x4a, 1, 0, 0, 0x10, 0, 0} + scsi_be<2>(room) + Bytes{0}, 8).in;
  }
  ScsiReplied toc(uint8_t format, uint8_t msf, uint8_t start, uint16_t room = 100,
                  uint8_t control = 0) {
    return run(Bytes{0x43, msf, format, 0, 0, 0, start} + scsi_be<2>(room) + Bytes{control}, 100);
  }
  ScsiReplied configuration(uint8_t which, uint16_t from, uint16_t room = 200) {
    return run(Bytes{0x46, which} + scsi_be<2>(from) + Bytes{0, 0, 0} + scsi_be<2>(room) + Bytes{0},
               200);
  }

  block::Node* disc;
};

Bytes event_is(uint8_t event, uint8_t status) { return {0, 6, 4, 0x10, event, status, 0, 0}; }
constexpr uint8_t kOpen = 1, kPresent = 2;

}  // namespace

TEST_CASE("ScsiCd: a disc is read in blocks of 2048 bytes, and not beyond its end", "[scsi-cd]") {
  Cd cd(Cd::With::kDisc, "2049000");  // and a bit
  CHECK(cd.ready().good());
  CHECK(cd.run(scsi_cdb10(0x25, 0, 0, 0), 8).in == scsi_be<4>(kBlocks - 1) + scsi_be<4>(2048));
  CHECK(cd.run(scsi_cdb10(0x28, 0, 998, 2), 4096).in.size() == 4096);
  CHECK(cd.run(Bytes{0xa8, 0} + scsi_be<4>(999) + scsi_be<4>(1) + Bytes{0, 0}, 2048).good());
  CHECK(cd.run(scsi_cdb10(0x28, 0, 999, 2), 4096).failed(sense::kLbaOutOfRange));
  CHECK(cd.run(scsi_cdb10(0x28, 0, 0, 2), 4095).overran());
  CHECK(cd.run(scsi_cdb10(0x2b, 0, 999, 0)).good());
  CHECK(cd.run(scsi_cdb10(0x2b, 0, 1000, 0)).failed(sense::kLbaOutOfRange));
  CHECK(cd.run(scsi_cdb10(0x2a, 0, 0, 1), Bytes(2048)).failed(sense::kInvalidOpcode));
  CHECK(cd.run(scsi_cdb10(0x42, 0, 0, 0)).failed(sense::kInvalidOpcode));
  const ScsiReplied inquiry = cd.run(Bytes{0x12, 0, 0, 0, 255, 0}, 255);
  CHECK(inquiry.in[0] == 5);
  CHECK(inquiry.in[1] == 0x80);
  CHECK(std::string(inquiry.in.begin() + 8, inquiry.in.begin() + 36) ==
        "RHEA    RHEA CD-ROM     1.0 ");
}

TEST_CASE("ScsiCd: a medium that may be written is not", "[scsi-cd]") {
  Cd cd(Cd::With::kNothing);
  block::Node& other = cd.add("driver=test-disk,node-name=rw,size=1M");
  REQUIRE(cd.open().has_value());
  REQUIRE(cd.set_medium(&other).has_value());
  // Nobody else may write what the guest reads.
  block::BlockBackend writer(cd.graph(), "writer",
                             block::Permissions{.taken = block::Perm::kWrite});
  CHECK_FALSE(writer.insert(cd.gs(), other).has_value());
  writer.close();
}

TEST_CASE("ScsiCd: an empty drive answers what needs no medium, and is not ready for the rest",
          "[scsi-cd]") {
  Cd cd(Cd::With::kNothing);
  for (const Bytes& cdb :
       {Bytes{0, 0, 0, 0, 0, 0}, scsi_cdb10(0x25, 0, 0, 0), scsi_cdb10(0x28, 0, 0, 0),
        scsi_cdb10(0x28, 0, 0, 1), Bytes{0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0},
        Bytes{0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0}}) {
    CHECK(cd.run(cdb, 2048).failed(sense::kNoMedium));
  }
  CHECK(cd.run(Bytes{0x12, 0, 0, 0, 36, 0}, 36).good());
  CHECK(cd.run(Bytes{0x5a, 8, 0x2a, 0, 0, 0, 0, 0, 255, 0}, 255).good());
  CHECK(cd.configuration(0, 0).be(6, 2) == 0);
  CHECK(cd.event() == event_is(0, 0));
  CHECK(cd.attentions.take().empty());
}

TEST_CASE("ScsiCd: the guest ejects and loads, and the monitors hear of it", "[scsi-cd]") {
  Cd cd;
  CHECK(cd.event() == event_is(2, kPresent));
  CHECK(cd.event() == event_is(0, kPresent));
  CHECK(cd.start_stop(0).good());
  CHECK(cd.start_stop(1).good());
  CHECK(cd.ready().good());
  CHECK(cd.start_stop(2).good());
  CHECK(cd.ready().failed(sense::kNoMediumTrayOpen));
  CHECK(cd.run(scsi_cdb10(0x28, 0, 0, 1), 2048).failed(sense::kNoMediumTrayOpen));
  CHECK(cd.event() == event_is(3, kOpen));
  CHECK(cd.start_stop(2).good());
  CHECK(cd.attentions.take().empty());
  CHECK(cd.start_stop(3).good());
  CHECK(cd.attentions.take() == std::vector{sense::kMediumChanged});
  CHECK(cd.event() == event_is(2, kPresent));
  CHECK(cd.ready().good());
  CHECK(cd.sink.moves.empty());
  cd.settle_services();
  CHECK(cd.sink.moves == "oc");
  CHECK(cd.start_stop(0x10).failed(sense::kInvalidField));
}

TEST_CASE("ScsiCd: what a guest does to its tray is told before what the user does then",
          "[scsi-cd]") {
  Cd cd;
  CHECK(cd.start_stop(2).good());
  cd.close();
  CHECK(cd.sink.moves == "oc");
  cd.settle_services();
  CHECK(cd.sink.moves == "oc");
}

TEST_CASE("ScsiCd: a guest that plays with its tray is told of to and fro, and not for ever",
          "[scsi-cd]") {
  Cd cd;
  for (int i = 0; i < 1001; ++i) CHECK(cd.start_stop(i % 2 == 0 ? 2 : 3).good());
  cd.settle_services();
  CHECK(cd.sink.moves.size() < 100);
  for (size_t i = 0; i < cd.sink.moves.size(); ++i) {
    CHECK(cd.sink.moves[i] == (i % 2 == 0 ? 'o' : 'c'));
  }
  CHECK(cd.sink.moves.back() == 'o');
}

TEST_CASE("ScsiCd: a locked tray opens for nobody but who forces it", "[scsi-cd]") {
  Cd cd;
  cd.lock(true);
  CHECK(cd.unit->tray().locked());
  CHECK(cd.start_stop(2).failed(sense::kRemovalPrevented));
  const auto refused = cd.open();
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().kind() == ErrorKind::kBusy);
  CHECK(refused.error().message() ==
        "Device 'lun0' is locked and force was not specified, wait for tray to open and try again");
  CHECK(cd.ready().good());
  // A list that has no room for the event leaves it to the next.
  CHECK(cd.event() == event_is(2, kPresent));
  CHECK(cd.event(4) == Bytes{0, 6, 4, 0x10});
  CHECK(cd.event() == event_is(1, kPresent));
  CHECK(cd.event() == event_is(0, kPresent));
  cd.lock(false);
  CHECK(cd.start_stop(2).good());
  CHECK(cd.start_stop(3).good());
  cd.lock(true);
  REQUIRE(cd.open(ScsiCd::Force::kYes).has_value());
  CHECK(cd.ready().failed(sense::kNoMediumTrayOpen));
  CHECK(cd.sink.moves == "oco");
  CHECK(cd.run(Bytes{0x1e, 0, 0, 0, 2, 0}).failed(sense::kInvalidField));
}

TEST_CASE("ScsiCd: a reset unlocks the tray", "[scsi-cd]") {
  Cd cd;
  cd.lock(true);
  cd.unit->reset();
  CHECK(cd.open().has_value());
}

TEST_CASE("ScsiCd: the user changes the medium while the tray is open", "[scsi-cd]") {
  Cd cd;
  block::Node& other = cd.add("driver=test-disk,node-name=d1,read-only=on,size=4M");
  const auto shut = cd.set_medium(nullptr);
  REQUIRE_FALSE(shut.has_value());
  CHECK(shut.error().message() == "Tray of device 'lun0' is not open");
  REQUIRE(cd.open().has_value());
  const auto full = cd.set_medium(&other);
  REQUIRE_FALSE(full.has_value());
  CHECK(full.error().message() == "There already is a medium in device 'lun0'");
  REQUIRE(cd.set_medium(nullptr).has_value());
  CHECK(cd.attentions.take().empty());
  cd.close();
  CHECK(cd.attentions.take().empty());
  CHECK(cd.ready().failed(sense::kNoMedium));
  CHECK(cd.event() == event_is(3, 0));
  REQUIRE(cd.open().has_value());
  REQUIRE(cd.set_medium(&other).has_value());
  CHECK(cd.attentions.take().empty());
  cd.close();
  CHECK(cd.attentions.take() == std::vector{sense::kMediumChanged});
  CHECK(cd.event() == event_is(2, kPresent));
  CHECK(cd.run(scsi_cdb10(0x25, 0, 0, 0), 8).be(0, 4) == 2047);
  CHECK(cd.sink.moves == "ococ");
  // A medium that grows where it lies.
  REQUIRE_FALSE(cd.graph().resize(cd.gs(), other, 8 << 20).has_value());
}

TEST_CASE("ScsiCd: a guest that shuts the tray under the user's hand hears of the medium after all",
          "[scsi-cd]") {
  Cd cd(Cd::With::kNothing);
  block::Node& slow = cd.add("driver=test-disk,node-name=slow,size=1M");
  AioContext& thread = cd.add_thread();
  test::ScsiTestRequest load;
  load.cdb[0] = 0x1b;
  load.cdb[4] = 3;
  // What changes the graph waits for another disk's read. Its user is told, and the guest acts.
  struct Guest final : block::BackendUser {
    explicit Guest(std::move_only_function<void()> f) : acts(std::move(f)) {}
    void drained_begin() noexcept override { acts(); }
    void drained_end() noexcept override {}
    bool drained_poll() const noexcept override { return false; }
    std::move_only_function<void()> acts;
  } guest([&] {
    MUST(spawn(thread, [&](Co& co) {
      RHEA_CHECK(cd.unit->execute(co, load).status == ScsiStatus::kGood);
      test::TestDisk::of(slow).release();
    }));
  });
  block::BlockBackend other(cd.graph(), "other", {});
  REQUIRE(other.insert(cd.gs(), slow).has_value());
  test::TestDisk::of(slow).hold();
  std::array<std::byte, 512> bytes;
  iovec piece;
  std::atomic<bool> done = false;
  MUST(spawn(cd.main(), [&](Co& co) {
    done = other.co_read(co, 0, block::test::vector_of(bytes, piece)).has_value();
  }));
  cd.wait_until([&] { return test::TestDisk::of(slow).held() == 1; });
  REQUIRE(cd.open().has_value());
  other.set_user(&guest);
  REQUIRE(cd.set_medium(cd.disc).has_value());
  other.set_user(nullptr);
  CHECK(done);
  CHECK(cd.unit->tray().position() == ScsiTrayPosition::kClosed);
  CHECK(cd.attentions.take() == std::vector{sense::kMediumChanged});
  CHECK(cd.event() == event_is(2, kPresent));
  CHECK(cd.ready().good());
  REQUIRE(other.remove(cd.gs()).has_value());
  other.close();
}

TEST_CASE("ScsiCd: an error on a medium that came later names its node", "[scsi-cd]") {
  Cd cd(Cd::With::kNothing);
  block::Node& bad = cd.add("driver=test-disk,node-name=bad,read-only=on,size=4M");
  REQUIRE(cd.open().has_value());
  REQUIRE(cd.set_medium(&bad).has_value());
  cd.close();
  test::TestDisk::of(bad).break_down();
  CHECK_FALSE(cd.run(scsi_cdb10(0x28, 0, 0, 1), 2048).good());
  cd.settle_services();
  REQUIRE(cd.errors.seen.size() == 1);
  CHECK(cd.errors.seen[0].node == "bad");
}

TEST_CASE("ScsiCd: the table of contents has one track of data, in three formats", "[scsi-cd]") {
  Cd cd;
  const Bytes track{0, 0x14, 1, 0, 0, 0, 0, 0};
  const Bytes lead_out = Bytes{0, 0x14, 0xaa, 0} + scsi_be<4>(kBlocks);
  CHECK(cd.toc(0, 0, 0).in == Bytes{0, 18, 1, 1} + track + lead_out);
  CHECK(cd.toc(0, 0, 1).in == Bytes{0, 18, 1, 1} + track + lead_out);
  CHECK(cd.toc(0, 0, 0xaa).in == Bytes{0, 10, 1, 1} + lead_out);
  CHECK(cd.toc(0, 0, 2).failed(sense::kInvalidField));
  CHECK(cd.toc(0, 0, 0, 4).in == Bytes{0, 18, 1, 1});
  CHECK(cd.toc(0, 0, 0, 0).in.empty());
  // 1150 frames are 15 seconds and 25 frames.
  CHECK(cd.toc(0, 2, 0xaa).in == Bytes{0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 15, 25});
  CHECK(cd.toc(1, 0, 0).in == Bytes{0, 10, 1, 1} + track);
  CHECK(cd.toc(0, 0, 0, 12, 0x40).in == Bytes{0, 10, 1, 1} + track);
  const ScsiReplied raw = cd.toc(2, 0, 0);
  REQUIRE(raw.in.size() == 4 + 4 * 11);
  CHECK(raw.be(0, 2) == 46);
  CHECK(Bytes(raw.in.begin() + 26, raw.in.begin() + 37) ==
        Bytes{1, 0x14, 0, 0xa2, 0, 0, 0, 0, 0, 15, 25});
  CHECK(cd.toc(2, 0, 2).failed(sense::kInvalidField));
  for (const uint8_t format : Bytes{3, 4, 5, 15}) {
    CHECK(cd.toc(format, 0, 0).failed(sense::kInvalidField));
  }
  CHECK(cd.toc(0x10, 0, 0).failed(sense::kInvalidField));
}

TEST_CASE("ScsiCd: GET CONFIGURATION tells what the drive can do with its disc", "[scsi-cd]") {
  {
    Cd cd;
    const ScsiReplied all = cd.configuration(0, 0);
    REQUIRE(all.good());
    CHECK(all.be(0, 4) == all.in.size() - 4);
    CHECK(all.be(6, 2) == 0x0008);
    CHECK(Bytes(all.in.begin() + 8, all.in.begin() + 20) ==
          Bytes{0, 0, 3, 8, 0, 0x10, 0, 0, 0, 8, 1, 0});
    CHECK(cd.configuration(1, 0).in.size() == all.in.size() - 8);  // no DVD
    CHECK(cd.configuration(2, 3).in ==
          scsi_be<4>(12) + Bytes{0, 0, 0, 8, 0, 3, 7, 4, 0x29, 0, 0, 0});
    CHECK(cd.configuration(2, 0x28).in == scsi_be<4>(4) + Bytes{0, 0, 0, 8});
    CHECK(cd.configuration(0, 0x1f).in.size() == 16);
    CHECK(cd.configuration(0, 0, 8).in.size() == 8);
    CHECK(cd.configuration(3, 0).failed(sense::kInvalidField));
  }
  Cd dvd(Cd::With::kDisc, "1G");
  CHECK(dvd.configuration(0, 0).be(6, 2) == 0x0010);
}

TEST_CASE("ScsiCd: events are polled for, and of media alone", "[scsi-cd]") {
  Cd cd;
  CHECK(cd.run(Bytes{0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8, 0}, 8).failed(sense::kInvalidField));
  CHECK(cd.run(Bytes{0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8, 0}, 8).in == Bytes{0, 2, 0x80, 0x10});
  // A reply that there is no memory for has told of nothing.
  CHECK(cd.run(Bytes{0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0}, 7).overran());
  CHECK(cd.event() == event_is(2, kPresent));
}

TEST_CASE("ScsiCd: disc information, mechanism and capabilities", "[scsi-cd]") {
  Cd cd;
  const ScsiReplied disc = cd.run(Bytes{0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0}, 34);
  CHECK(disc.in == Bytes{0, 32, 0x0e, 1, 1, 1, 1, 0x20} + Bytes(26));
  CHECK(cd.run(Bytes{0x51, 1, 0, 0, 0, 0, 0, 0, 34, 0}, 34).failed(sense::kInvalidField));
  const Bytes mechanism{0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0};
  CHECK(cd.run(mechanism, 8).in == Bytes{0, 0, 0, 0, 0, 1, 0, 0});
  const auto capabilities = [&] { return cd.run(Bytes{0x1a, 8, 0x2a, 0, 255, 0}, 255).in; };
  REQUIRE(capabilities().size() == 4 + 22);
  CHECK(capabilities()[4] == 0x2a);
  CHECK(capabilities()[4 + 2] == 0x3b);
  CHECK(capabilities()[4 + 6] == 0x29);
  cd.lock(true);
  CHECK(capabilities()[4 + 6] == 0x2b);
  cd.lock(false);
  CHECK(cd.start_stop(2).good());
  CHECK(cd.run(mechanism, 8).in[1] == 0x10);
  // Both pages, without a block descriptor.
  CHECK(cd.run(Bytes{0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255, 0}, 255).in.size() == 8 + 12 + 22);
}

TEST_CASE("ScsiCd: a bit that means nothing refuses any command", "[scsi-cd]") {
  Cd cd;
  const ScsiReplied all =
      cd.run(Bytes{0xa3, 0x0c, 0, 0, 0, 0} + scsi_be<4>(4096) + Bytes{0, 0}, 4096);
  REQUIRE(all.good());
  for (size_t at = 4; at < all.in.size(); at += 8) {
    const uint8_t opcode = all.in[at];
    if (opcode == 0x03 || opcode == 0xa0) continue;  // the bus's
    const uint64_t action = all.be(at + 2, 2), size = all.be(at + 6, 2);
    Bytes cdb(size);
    cdb[0] = opcode;
    cdb[1] = static_cast<uint8_t>(action);
    cdb[size - 1] = 4;  // NACA
    INFO(std::hex << int{opcode});
    CHECK(cd.run(cdb, Bytes(64)).failed(sense::kInvalidField));
  }
}
