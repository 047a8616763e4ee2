#include "devices/scsi/scsi_hd.h"

#include <catch2/catch.hpp>

#include "tests/unit/devices/scsi_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using test::operator+;
using test::scsi_be;
using test::scsi_cdb10;
using test::scsi_cdb16;
using test::scsi_pattern;
using test::ScsiReplied;
using Bytes = test::ScsiBytes;

namespace {

constexpr uint32_t kBlocks = 2048;

/// A disk of 1 MiB that keeps its bytes in memory.
struct Hd : test::ScsiFixture<ScsiHd> {
  explicit Hd(ScsiHdConfig config = {}, std::string_view options =
                                            "driver=test-disk,size=1M,discard=unmap,zeroes=on,"
                                            "discards=on,fua=on") {
    node = &add(std::string(options) + ",node-name=d0");
    config.node = "d0";
    make(config);
  }
  test::TestDisk& disk() { return test::TestDisk::of(*node); }
  Bytes on_medium(size_t at, size_t size) {
    const auto all = disk().bytes();
    Bytes bytes(size);
    std::memcpy(bytes.data(), all.data() + at, size);
    return bytes;
  }
  block::Node* node = nullptr;
};

Bytes cdb12(uint8_t opcode, uint8_t flags, uint32_t lba, uint32_t blocks) {
  return Bytes{opcode, flags} + scsi_be<4>(lba) + scsi_be<4>(blocks) + Bytes{0, 0};
}

}  // namespace

TEST_CASE("ScsiHd: what each of the writes has written each of the reads reads", "[scsi]") {
  Hd hd;
  const std::array writes{Bytes{0x0a, 0, 0, 8, 4, 0}, scsi_cdb10(0x2a, 0, 8, 4),
                          scsi_cdb10(0x2a, 0x18, 8, 4), cdb12(0xaa, 0x08, 8, 4),
                          scsi_cdb16(0x8a, 0x18, 8, 4)};
  const std::array reads{Bytes{0x08, 0, 0, 8, 4, 0}, scsi_cdb10(0x28, 0, 8, 4),
                         scsi_cdb10(0x28, 0x18, 8, 4), cdb12(0xa8, 0x10, 8, 4),
                         scsi_cdb16(0x88, 0x08, 8, 4)};
  for (size_t i = 0; i < writes.size(); ++i) {
    const Bytes data = scsi_pattern(2048, static_cast<unsigned>(i));
    const int forced = hd.disk().forced(), flushes = hd.disk().flushes();
    const ScsiReplied written = hd.run(writes[i], data);
    CHECK(written.good());
    CHECK(written.outcome.transferred == 2048);
    CHECK(hd.disk().forced() == forced + (i >= 2 ? 1 : 0));
    CHECK(hd.on_medium(8 * 512, 2048) == data);
    const ScsiReplied read = hd.run(reads[i], 2048);
    CHECK(read.good());
    CHECK(read.in == data);
    CHECK(hd.disk().flushes() == flushes + (i == 2 || i == 4 ? 1 : 0));
  }
}

TEST_CASE("ScsiHd: a read into more memory than it needs leaves the rest alone", "[scsi]") {
  Hd hd;
  const ScsiReplied read = hd.run(scsi_cdb10(0x28, 0, 0, 1), 5000);
  CHECK(read.good());
  CHECK(read.in.size() == 512);
}

TEST_CASE("ScsiHd: READ(6) without a number of blocks reads 256", "[scsi]") {
  Hd hd;
  CHECK(hd.run(Bytes{0x08, 0, 0, 0, 0, 0}, 256 * 512).in.size() == 256 * 512);
  CHECK(hd.run(Bytes{0x08, 0, 0, 0, 0, 0}, 255 * 512).overran());
}

TEST_CASE("ScsiHd: transfers of nothing are good, and those beyond the end are not", "[scsi]") {
  Hd hd;
  CHECK(hd.run(scsi_cdb10(0x28, 0, 0, 0), 0).good());
  CHECK(hd.run(scsi_cdb10(0x28, 0, kBlocks, 0), 0).good());
  CHECK(hd.run(scsi_cdb10(0x2a, 0, kBlocks, 0)).good());
  const auto out_of_range = [&](const Bytes& cdb) {
    return hd.run(cdb, 4096).failed(sense::kLbaOutOfRange) &&
           hd.run(cdb, Bytes(4096)).failed(sense::kLbaOutOfRange);
  };
  for (const uint8_t opcode : Bytes{0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41}) {
    INFO(std::hex << int{opcode});
    CHECK(out_of_range(scsi_cdb10(opcode, 0, kBlocks, 1)));
    CHECK(out_of_range(scsi_cdb10(opcode, 0, kBlocks - 1, 2)));
    CHECK(out_of_range(scsi_cdb10(opcode, 0, UINT32_MAX, 1)));
  }
  for (const uint8_t opcode : Bytes{0x88, 0x8a, 0x8e, 0x8f, 0x91, 0x93}) {
    INFO(std::hex << int{opcode});
    CHECK(out_of_range(scsi_cdb16(opcode, 0, kBlocks, 1)));
    CHECK(out_of_range(scsi_cdb16(opcode, 0, UINT64_MAX, 1)));
    CHECK(out_of_range(scsi_cdb16(opcode, 0, UINT64_MAX / 512, 8)));
  }
  for (const uint8_t opcode : Bytes{0xa8, 0xaa, 0xae, 0xaf}) {
    CHECK(out_of_range(cdb12(opcode, 0, kBlocks - 1, 2)));
    CHECK(out_of_range(cdb12(opcode, 0, 1, UINT32_MAX)));
  }
  CHECK(out_of_range(Bytes{0x08, 0x1f, 0xff, 0xff, 1, 0}));
  CHECK(out_of_range(Bytes{0x9e, 0x12} + scsi_be<8>(kBlocks) + scsi_be<4>(24) + Bytes{0, 0}));
  CHECK(hd.disk().requests() == 0);
}

TEST_CASE("ScsiHd: a command that wants more data than there is memory is not begun", "[scsi]") {
  Hd hd;
  CHECK(hd.run(scsi_cdb10(0x28, 0, 0, 2), 1023).overran());
  CHECK(hd.run(scsi_cdb10(0x28, 0, 0, 2), Bytes(4096)).overran());
  CHECK(hd.run(scsi_cdb10(0x2a, 0, 0, 2), Bytes(1023)).overran());
  CHECK(hd.run(scsi_cdb10(0x2a, 0, 0, 2), 4096).overran());
  CHECK(hd.run(scsi_cdb10(0x2e, 0x02, 0, 2), Bytes(1023)).overran());
  CHECK(hd.run(scsi_cdb10(0x2f, 0x02, 0, 2), Bytes(1023)).overran());
  CHECK(hd.run(scsi_cdb10(0x41, 0, 0, 2), Bytes(511)).overran());
  CHECK(hd.run(Bytes{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, Bytes(23)).overran());
  CHECK(hd.run(Bytes{0x15, 0x10, 0, 0, 12, 0}, Bytes(11)).overran());
  CHECK(hd.run(Bytes{0x12, 0, 0, 0, 36, 0}, 35).overran());
  CHECK(hd.run(Bytes{0x12, 0, 0, 0, 36, 0}, 36).good());
  CHECK(hd.disk().requests() == 0);
}

TEST_CASE("ScsiHd: a bit that means nothing refuses any command", "[scsi]") {
  Hd hd;
  // By opcode: a CDB that is good, and what its bits may be, as the unit itself tells.
  const ScsiReplied all =
      hd.run(Bytes{0xa3, 0x0c, 0, 0, 0, 0} + scsi_be<4>(4096) + Bytes{0, 0}, 4096);
  REQUIRE(all.good());
  REQUIRE(all.be(0, 4) == all.in.size() - 4);
  size_t looked_at = 0;
  for (size_t at = 4; at < all.in.size(); at += 8) {
    const uint8_t opcode = all.in[at];
    const uint64_t action = all.be(at + 2, 2), size = all.be(at + 6, 2);
    if (opcode == 0x03 || opcode == 0xa0) continue;  // the bus's
    const ScsiReplied one = hd.run(
        Bytes{0xa3, 0x0c, 3, opcode} + scsi_be<2>(action) + scsi_be<4>(64) + Bytes{0, 0}, 64);
    REQUIRE(one.good());
    REQUIRE(one.in.size() == 4 + size);
    CHECK(one.in[1] == 3);
    CHECK(one.in[4] == opcode);
    for (size_t byte = 1; byte < size; ++byte) {
      uint8_t known = one.in[4 + byte];
      if (byte == 1 && action != 0) known |= 0x1f;
      for (unsigned bit = 0; bit < 8; ++bit) {
        if ((known >> bit & 1) != 0) continue;
        Bytes cdb(size);
        cdb[0] = opcode;
        cdb[1] = static_cast<uint8_t>(action);
        cdb[byte] |= static_cast<uint8_t>(1U << bit);
        INFO(std::hex << int{opcode} << " byte " << byte << " bit " << bit);
        CHECK(hd.run(cdb, Bytes(64)).failed(sense::kInvalidField));
        ++looked_at;
      }
    }
  }
  CHECK(looked_at > 500);
  CHECK(hd.disk().requests() == 0);
}

TEST_CASE("ScsiHd: commands that it does not have are refused as unknown", "[scsi]") {
  Hd hd;
  for (const uint8_t opcode : Bytes{0x01, 0x04, 0x16, 0x17, 0x1e, 0x43, 0x56, 0x57, 0x5e, 0x5f,
                                    0x7f, 0x89, 0xa5, 0xc0, 0xff}) {
    INFO(std::hex << int{opcode});
    CHECK(hd.run(Bytes{opcode}, 64).failed(sense::kInvalidOpcode));
  }
  CHECK(hd.run(Bytes{0x9e, 0x11}, 64).failed(sense::kInvalidField));
  CHECK(hd.run(Bytes{0xa3, 0x0d}, 64).failed(sense::kInvalidField));
}

TEST_CASE("ScsiHd: REPORT SUPPORTED OPERATION CODES tells of one command, or of its action",
          "[scsi]") {
  Hd hd;
  const auto ask = [&](uint8_t how, uint8_t opcode, uint16_t action, uint32_t room = 64) {
    return hd.run(
        Bytes{0xa3, 0x0c, how, opcode} + scsi_be<2>(action) + scsi_be<4>(room) + Bytes{0, 0}, 64);
  };
  CHECK(ask(1, 0x28, 0).in ==
        Bytes{0, 3, 0, 10, 0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0});
  CHECK(ask(1, 0x04, 0).in == Bytes{0, 1, 0, 0});
  CHECK(ask(1, 0x5e, 0).in == Bytes{0, 1, 0, 0});
  CHECK(ask(1, 0x9e, 0).failed(sense::kInvalidField));
  CHECK(ask(2, 0x28, 0).failed(sense::kInvalidField));
  CHECK(ask(2, 0x9e, 0x10).in[5] == 0x10);
  CHECK(ask(2, 0x9e, 0x11).in == Bytes{0, 1, 0, 0});
  CHECK(ask(3, 0x9e, 0x11).in == Bytes{0, 1, 0, 0});
  CHECK(ask(3, 0x28, 0).in[1] == 3);
  CHECK(ask(3, 0x28, 1).in == Bytes{0, 1, 0, 0});
  CHECK(ask(4, 0x28, 0).failed(sense::kInvalidField));
  const ScsiReplied timed = ask(0x81, 0x00, 0);
  CHECK(timed.in.size() == 4 + 6 + 12);
  CHECK(timed.in[1] == 0x83);
  CHECK(timed.be(10, 2) == 10);
  CHECK(ask(1, 0x28, 0, 3).in.size() == 3);
  CHECK(ask(1, 0x28, 0, 0).in.empty());
  const ScsiReplied all = ask(0x80, 0, 0, 64);
  CHECK(all.in.size() == 64);
  CHECK(all.be(0, 4) % 20 == 0);
}

TEST_CASE("ScsiHd: a read-only disk refuses what would change it, and says so", "[scsi]") {
  Hd hd({}, "driver=test-disk,size=1M,read-only=on");
  for (const Bytes& cdb :
       {Bytes{0x0a, 0, 0, 0, 1, 0}, scsi_cdb10(0x2a, 0, 0, 1), cdb12(0xaa, 0, 0, 1),
        scsi_cdb16(0x8a, 0, 0, 1), scsi_cdb10(0x2e, 0, 0, 1), cdb12(0xae, 0, 0, 1),
        scsi_cdb16(0x8e, 0, 0, 1), scsi_cdb10(0x41, 0, 0, 1), scsi_cdb16(0x93, 0, 0, 1),
        Bytes{0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}}) {
    CHECK(hd.run(cdb, Bytes(512)).failed(sense::kWriteProtected));
  }
  CHECK(hd.run(scsi_cdb10(0x28, 0, 0, 1), 512).good());
  CHECK(hd.run(scsi_cdb10(0x35, 0, 0, 0)).good());
  CHECK(hd.run(Bytes{0x1a, 0, 0x3f, 0, 255, 0}, 255).in[2] == 0x90);
}

TEST_CASE("ScsiHd: VERIFY reads, and compares if it is to", "[scsi]") {
  Hd hd;
  const Bytes data = scsi_pattern(600 * 512, 1);
  REQUIRE(hd.run(scsi_cdb10(0x2a, 0, 100, 600), data).good());
  Bytes other = data;
  other.back() ^= 1;
  for (const Bytes& cdb : {scsi_cdb10(0x2f, 0x02, 100, 600), cdb12(0xaf, 0x02, 100, 600),
                           scsi_cdb16(0x8f, 0x12, 100, 600)}) {
    const ScsiReplied same = hd.run(cdb, data);
    CHECK(same.good());
    CHECK(same.outcome.transferred == data.size());
    CHECK(hd.run(cdb, other).failed(sense::kMiscompareVerify));
  }
  const ScsiReplied read = hd.run(scsi_cdb10(0x2f, 0, 0, 2000));
  CHECK(read.good());
  CHECK(read.outcome.transferred == 0);
  hd.disk().break_down();
  CHECK_FALSE(hd.run(scsi_cdb10(0x2f, 0, 0, 2000)).good());
}

TEST_CASE("ScsiHd: WRITE AND VERIFY leaves what it was given on stable storage", "[scsi]") {
  Hd hd;
  for (const Bytes& cdb :
       {scsi_cdb10(0x2e, 0x00, 3, 2), cdb12(0xae, 0x02, 3, 2), scsi_cdb16(0x8e, 0x10, 3, 2)}) {
    const int forced = hd.disk().forced(), requests = hd.disk().requests();
    const Bytes data = scsi_pattern(1024, cdb[0]);
    CHECK(hd.run(cdb, data).good());
    CHECK(hd.on_medium(3 * 512, 1024) == data);
    CHECK(hd.disk().forced() == forced + 1);
    CHECK(hd.disk().requests() == requests + 2);
  }
}

TEST_CASE("ScsiHd: the capacity is told in both forms, with the size of the blocks", "[scsi]") {
  ScsiHdConfig config;
  config.logical_block_size = 1024;
  config.physical_block_size = 4096;
  Hd hd(config);
  const ScsiReplied ten = hd.run(Bytes{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8);
  CHECK(ten.in == scsi_be<4>(1023) + scsi_be<4>(1024));
  const Bytes cdb = Bytes{0x9e, 0x10} + Bytes(8) + scsi_be<4>(32) + Bytes{0, 0};
  const ScsiReplied sixteen = hd.run(cdb, 32);
  CHECK(sixteen.in ==
        scsi_be<8>(1023) + scsi_be<4>(1024) + Bytes{0, 2} + scsi_be<2>(0x8000) + Bytes(16));
  CHECK(hd.run(Bytes{0x9e, 0x10} + Bytes(8) + scsi_be<4>(12) + Bytes{0, 0}, 32).in.size() == 12);
  CHECK(hd.run(Bytes{0x9e, 0x10} + Bytes(14), 0).good());
}

TEST_CASE("ScsiHd: a disk that gives no space back has no command for it", "[scsi]") {
  ScsiHdConfig config;
  config.discard_granularity = 0;
  Hd hd(config);
  const Bytes cdb = Bytes{0x9e, 0x10} + Bytes(8) + scsi_be<4>(32) + Bytes{0, 0};
  CHECK(hd.run(cdb, 32).be(14, 2) == 0);
  CHECK(hd.run(Bytes{0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0}).failed(sense::kInvalidOpcode));
  CHECK(hd.run(scsi_cdb10(0x41, 8, 0, 1), Bytes(512)).failed(sense::kInvalidField));
  CHECK(hd.run(scsi_cdb10(0x41, 0, 0, 1), Bytes(512)).good());
  const ScsiReplied provisioning = hd.run(Bytes{0x12, 1, 0xb2, 0, 255, 0}, 255);
  CHECK(provisioning.in == Bytes{0, 0xb2, 0, 4, 0, 0, 0, 0});
}

TEST_CASE("ScsiHd: a disk without a single block is not ready to tell its capacity", "[scsi]") {
  Hd hd({}, "driver=test-disk,size=0");
  CHECK(hd.run(Bytes{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).failed(sense::kManualIntervention));
  CHECK(hd.run(Bytes{0x9e, 0x10} + Bytes(8) + scsi_be<4>(32) + Bytes{0, 0}, 32)
            .failed(sense::kManualIntervention));
  CHECK(hd.run(scsi_cdb10(0x28, 0, 0, 1), 512).failed(sense::kLbaOutOfRange));
}

TEST_CASE("ScsiHd: a disk that is resized tells its bus", "[scsi]") {
  Hd hd;
  CHECK(hd.attentions.take().empty());
  bql.assert_held();
  REQUIRE(hd.graph().resize(hd.gs(), *hd.node, 2 << 20).has_value());
  CHECK(hd.attentions.take() == std::vector{sense::kCapacityChanged});
  CHECK(hd.run(Bytes{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8).be(0, 4) == 4095);
}

TEST_CASE("ScsiHd: START STOP UNIT and SYNCHRONIZE CACHE flush", "[scsi]") {
  Hd hd;
  const auto flushes = [&](const Bytes& cdb) {
    const int before = hd.disk().flushes();
    CHECK(hd.run(cdb).good());
    return hd.disk().flushes() - before;
  };
  CHECK(flushes(Bytes{0x1b, 0, 0, 0, 0, 0}) == 1);
  CHECK(flushes(Bytes{0x1b, 1, 0, 0, 4, 0}) == 0);
  CHECK(flushes(Bytes{0x1b, 0, 0, 0, 1, 0}) == 0);
  CHECK(flushes(scsi_cdb10(0x35, 0, 0, 0)) == 1);
  CHECK(flushes(scsi_cdb10(0x35, 2, 5, 7)) == 1);
  CHECK(flushes(scsi_cdb16(0x91, 0, 0, 0)) == 1);
  // It has nothing to eject.
  CHECK(hd.run(Bytes{0x1b, 0, 0, 0, 2, 0}).failed(sense::kInvalidField));
}

TEST_CASE("ScsiHd: WRITE SAME fills a range with a block, or with zeroes", "[scsi]") {
  Hd hd;
  const Bytes block = scsi_pattern(512, 9), before = scsi_pattern(512, 1);
  REQUIRE(hd.run(scsi_cdb10(0x2a, 0, 4, 1), before).good());
  const ScsiReplied filled = hd.run(scsi_cdb16(0x93, 0, 5, 1000), block);
  CHECK(filled.good());
  CHECK(filled.outcome.transferred == 512);
  CHECK(hd.on_medium(4 * 512, 512) == before);
  for (const size_t at : {5U, 6U, 516U, 517U, 518U, 1004U})
    CHECK(hd.on_medium(at * 512, 512) == block);
  CHECK(hd.on_medium(1005 * 512, 512) == Bytes(512));
  // Not zeroes, so the UNMAP bit changes nothing of what is read.
  CHECK(hd.run(scsi_cdb10(0x41, 8, 7, 3), before).good());
  CHECK(hd.on_medium(9 * 512, 512) == before);
  CHECK(hd.run(scsi_cdb10(0x41, 8, 7, 3), Bytes(512)).good());
  CHECK(hd.on_medium(7 * 512, 3 * 512) == Bytes(3 * 512));
  CHECK(hd.on_medium(10 * 512, 512) == block);
  CHECK(hd.run(scsi_cdb16(0x93, 9, 20, 2)).good());
  CHECK(hd.on_medium(20 * 512, 1024) == Bytes(1024));
  CHECK(hd.run(scsi_cdb16(0x93, 1, 30, 2)).good());
  CHECK(hd.on_medium(30 * 512, 1024) == Bytes(1024));
  CHECK(hd.on_medium(32 * 512, 512) == block);
}

TEST_CASE("ScsiHd: a WRITE SAME of no blocks, or of more than it says it takes, is refused",
          "[scsi]") {
  Hd hd({}, "driver=null-co,size=4G");
  CHECK(hd.run(scsi_cdb16(0x93, 0, 0, 0), Bytes(512)).failed(sense::kInvalidField));
  const ScsiReplied limits = hd.run(Bytes{0x12, 1, 0xb0, 0, 64, 0}, 64);
  REQUIRE(limits.in.size() == 64);
  const auto most = static_cast<uint32_t>(limits.be(36, 8));
  CHECK(most == ScsiHd::kMostWriteSameBytes / 512);
  CHECK(hd.run(scsi_cdb16(0x93, 0, 0, most), Bytes(512)).good());
  CHECK(hd.run(scsi_cdb16(0x93, 0, 0, most + 1), Bytes(512)).failed(sense::kInvalidField));
}

namespace {

Bytes unmap_list(std::initializer_list<std::pair<uint64_t, uint32_t>> ranges) {
  const auto size = static_cast<uint16_t>(ranges.size() * 16);
  Bytes list = scsi_be<2>(size + 6U) + scsi_be<2>(size) + Bytes(4);
  for (const auto& [lba, blocks] : ranges)
    list = list + scsi_be<8>(lba) + scsi_be<4>(blocks) + Bytes(4);
  return list;
}
Bytes unmap_cdb(size_t length) { return scsi_cdb10(0x42, 0, 0, static_cast<uint16_t>(length)); }

}  // namespace

TEST_CASE("ScsiHd: UNMAP gives back each of its ranges", "[scsi]") {
  Hd hd;
  const Bytes data = scsi_pattern(64 * 512, 3);
  REQUIRE(hd.run(scsi_cdb10(0x2a, 0, 0, 64), data).good());
  const Bytes list = unmap_list({{2, 3}, {63, 0}, {10, 1}});
  const ScsiReplied done = hd.run(unmap_cdb(list.size()), list);
  CHECK(done.good());
  CHECK(done.outcome.transferred == list.size());
  const Bytes now = hd.on_medium(0, data.size());
  for (size_t i = 0; i < 64; ++i) {
    const bool gone = (i >= 2 && i < 5) || i == 10;
    const auto at = now.begin() + static_cast<ptrdiff_t>(i * 512);
    CHECK(std::all_of(at, at + 512, [](uint8_t b) { return b == 0; }) == gone);
  }
}

TEST_CASE("ScsiHd: an UNMAP with anything wrong changes nothing", "[scsi]") {
  Hd hd;
  const Bytes data = scsi_pattern(64 * 512, 3);
  REQUIRE(hd.run(scsi_cdb10(0x2a, 0, 0, 64), data).good());
  const int requests = hd.disk().requests();
  const Bytes beyond = unmap_list({{0, 8}, {kBlocks, 1}});
  CHECK(hd.run(unmap_cdb(beyond.size()), beyond).failed(sense::kLbaOutOfRange));
  const Bytes wrapped = unmap_list({{0, 8}, {UINT64_MAX, 2}});
  CHECK(hd.run(unmap_cdb(wrapped.size()), wrapped).failed(sense::kLbaOutOfRange));
  const Bytes good = unmap_list({{0, 8}, {9, 1}});
  CHECK(hd.run(unmap_cdb(good.size() - 1), good).failed(sense::kParameterListLength));
  CHECK(hd.run(unmap_cdb(7), good).failed(sense::kParameterListLength));
  CHECK(hd.run(unmap_cdb(0), good).good());
  CHECK(hd.run(unmap_cdb(8), unmap_list({})).good());
  Bytes many = scsi_be<2>(256 * 16 + 6) + scsi_be<2>(256 * 16) + Bytes(4);
  for (int i = 0; i < 256; ++i) many = many + scsi_be<8>(0) + scsi_be<4>(1) + Bytes(4);
  CHECK(hd.run(unmap_cdb(many.size()), many).failed(sense::kInvalidParameter));
  CHECK(hd.disk().requests() == requests);
  // Whole ones count, what is cut off does not.
  Bytes cut = good;
  cut[3] = 31;
  CHECK(hd.run(unmap_cdb(cut.size()), cut).good());
  CHECK(hd.disk().requests() == requests + 1);
}

TEST_CASE("ScsiHd: an UNMAP of more than it says it takes is refused", "[scsi]") {
  Hd hd({}, "driver=null-co,size=4G,discard=unmap");
  const ScsiReplied limits = hd.run(Bytes{0x12, 1, 0xb0, 0, 64, 0}, 64);
  const auto most = static_cast<uint32_t>(limits.be(20, 4));
  CHECK(most == ScsiHd::kMostUnmapBytes / 512);
  CHECK(limits.be(24, 4) == ScsiHd::kMostUnmapRanges);
  const Bytes all = unmap_list({{0, most - 1}, {8, 1}}), more = unmap_list({{0, most}, {8, 1}});
  CHECK(hd.run(unmap_cdb(all.size()), all).good());
  CHECK(hd.run(unmap_cdb(more.size()), more).failed(sense::kInvalidParameter));
}

TEST_CASE("ScsiHd: INQUIRY tells what the user has said of the disk", "[scsi]") {
  ScsiHdConfig config;
  config.vendor = "ACME";
  config.product = "A product with a long name";
  config.revision = "42";
  config.removable = true;
  Hd hd(config);
  const ScsiReplied all = hd.run(Bytes{0x12, 0, 0, 0, 255, 0}, 255);
  REQUIRE(all.good());
  CHECK(all.in.size() == 74);
  CHECK(all.in[0] == 0);
  CHECK(all.in[1] == 0x80);
  CHECK(all.in[2] == 6);
  CHECK(all.in[3] == 0x12);
  CHECK(all.in[4] == 69);
  CHECK(all.in[7] == 2);
  CHECK(std::string(all.in.begin() + 8, all.in.begin() + 36) == "ACME    A product with a42  ");
  CHECK(hd.run(Bytes{0x12, 0, 0, 0, 36, 0}, 255).in.size() == 36);
  CHECK(hd.run(Bytes{0x12, 0, 0, 1, 0, 0}, 255).in.size() == 74);
  CHECK(hd.run(Bytes{0x12, 0, 0, 0, 0, 0}, 0).good());
  CHECK(hd.run(Bytes{0x12, 0, 1, 0, 255, 0}, 255).failed(sense::kInvalidField));
  CHECK(hd.run(Bytes{0x12, 1, 0x84, 0, 255, 0}, 255).failed(sense::kInvalidField));
  CHECK(hd.run(Bytes{0x1e, 0, 0, 0, 1, 0}).good());
}

TEST_CASE("ScsiHd: vital product data name the disk by its serial number and its WWN", "[scsi]") {
  const auto page = [](Hd& hd, uint8_t code) {
    return hd.run(Bytes{0x12, 1, code, 0, 255, 0}, 255);
  };
  {
    Hd plain;
    CHECK(page(plain, 0).in == Bytes{0, 0, 0, 5, 0, 0x83, 0xb0, 0xb1, 0xb2});
    CHECK(page(plain, 0x80).failed(sense::kInvalidField));
    CHECK(page(plain, 0x83).in == Bytes{0, 0x83, 0, 0});
  }
  ScsiHdConfig config;
  config.serial = "rhea-1";
  config.wwn = 0x5000c50015ea71ac;
  config.rotation_rate = 7200;
  config.logical_block_size = 4096;
  config.min_io_size = 8192;
  config.opt_io_size = 65536;
  config.discard_granularity = 32768;
  Hd hd(config);
  CHECK(page(hd, 0).in == Bytes{0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2});
  CHECK(page(hd, 0x80).in == Bytes{0, 0x80, 0, 6, 'r', 'h', 'e', 'a', '-', '1'});
  CHECK(page(hd, 0x83).in == Bytes{0, 0x83, 0, 22, 2, 0, 0, 6, 'r', 'h', 'e', 'a', '-', '1',  //
                                   1, 3, 0, 8} +
                                 scsi_be<8>(0x5000c50015ea71ac));
  const ScsiReplied limits = page(hd, 0xb0);
  CHECK(limits.in.size() == 64);
  CHECK(limits.be(2, 2) == 60);
  CHECK(limits.in[4] == 1);
  CHECK(limits.be(6, 2) == 2);
  CHECK(limits.be(12, 4) == 16);
  CHECK(limits.be(20, 4) == ScsiHd::kMostUnmapBytes / 4096);
  CHECK(limits.be(28, 4) == 8);
  CHECK(limits.be(32, 4) == 0x8000'0000);
  CHECK(page(hd, 0xb1).be(2, 4) == (60U << 16 | 7200));
  CHECK(page(hd, 0xb1).in.size() == 64);
  CHECK(page(hd, 0xb2).in == Bytes{0, 0xb2, 0, 4, 0, 0xe0, 2, 0});
}

TEST_CASE("ScsiHd: GET LBA STATUS tells what the image holds", "[scsi]") {
  Hd hd;
  const auto ask = [&](uint64_t lba, uint32_t room) {
    return hd.run(Bytes{0x9e, 0x12} + scsi_be<8>(lba) + scsi_be<4>(room) + Bytes{0, 0}, 2000);
  };
  const ScsiReplied one = ask(8, 24);
  CHECK(one.in == scsi_be<4>(20) + Bytes(4) + scsi_be<8>(8) + scsi_be<4>(kBlocks - 8) + Bytes(4));
  CHECK(ask(8, 0).good());
  CHECK(ask(8, 20).in.size() == 20);
  CHECK(ask(kBlocks - 1, 1000).be(16, 4) == 1);
}
