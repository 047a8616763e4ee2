#include <catch2/catch.hpp>

#include "devices/scsi/scsi_hd.h"
#include "tests/unit/devices/scsi_fixture.h"

using namespace rhea;
using namespace rhea::devices;
using test::operator+;
using test::scsi_be;
using test::scsi_cdb10;
using test::ScsiReplied;
using Bytes = test::ScsiBytes;

namespace {

struct Hd : test::ScsiFixture<ScsiHd> {
  explicit Hd(ScsiHdConfig config = {}, std::string_view node = "driver=test-disk,size=1M,fua=on") {
    disk = &test::TestDisk::of(add(std::string(node) + ",node-name=d0"));
    config.node = "d0";
    make(config);
  }
  ScsiReplied sense6(uint8_t flags, uint8_t page, uint8_t subpage = 0, uint8_t room = 255) {
    return run(Bytes{0x1a, flags, page, subpage, room, 0}, 255);
  }
  ScsiReplied sense10(uint8_t flags, uint8_t page, uint16_t room = 255) {
    return run(Bytes{0x5a, flags, page, 0, 0, 0, 0} + scsi_be<2>(room) + Bytes{0}, 255);
  }
  ScsiReplied select6(const Bytes& list, uint8_t flags = 0x10) {
    return run(Bytes{0x15, flags, 0, 0, static_cast<uint8_t>(list.size()), 0}, list);
  }
  ScsiReplied select10(const Bytes& list) {
    return run(Bytes{0x55, 0x10, 0, 0, 0, 0, 0} + scsi_be<2>(list.size()) + Bytes{0}, list);
  }
  test::TestDisk* disk;
};

Bytes caching(bool on) {
  Bytes page(20);
  page[0] = 0x08;
  page[1] = 0x12;
  page[2] = on ? 4 : 0;
  return page;
}
const Bytes kControl{0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0};
const Bytes kDescriptor = scsi_be<4>(2048) + scsi_be<4>(512);

}  // namespace

TEST_CASE("ScsiHd: MODE SENSE gives pages in all of its forms", "[scsi][mode]") {
  Hd hd;
  const Bytes both = caching(true) + kControl;
  CHECK(hd.sense6(0, 0x3f).in == Bytes{43, 0, 0x10, 8} + kDescriptor + both);
  CHECK(hd.sense6(0, 0x3f, 0xff).in == Bytes{43, 0, 0x10, 8} + kDescriptor + both);
  CHECK(hd.sense6(8, 0x0a).in == Bytes{15, 0, 0x10, 0} + kControl);
  CHECK(hd.sense6(8, 0x08, 0, 10).in == Bytes{23, 0, 0x10, 0, 0x08, 0x12, 4, 0, 0, 0});
  CHECK(hd.sense10(8, 0x08).in == Bytes{0, 26, 0, 0x10, 0, 0, 0, 0} + caching(true));
  CHECK(hd.sense10(0, 0x08).in == Bytes{0, 34, 0, 0x10, 0, 0, 0, 8} + kDescriptor + caching(true));
  CHECK(hd.sense10(0x10, 0x08).in == Bytes{0, 42, 0, 0x10, 1, 0, 0, 16} + scsi_be<8>(2048) +
                                         Bytes(4) + scsi_be<4>(512) + caching(true));
  CHECK(hd.sense6(8, 0x48).in == Bytes{23, 0, 0x10, 0} + caching(true));
  CHECK(hd.sense6(8, 0x4a).in == Bytes{15, 0, 0x10, 0, 0x0a, 0x0a} + Bytes(10));
  CHECK(hd.sense6(8, 0x88).in == Bytes{23, 0, 0x10, 0} + caching(true));
  CHECK(hd.sense6(8, 0xc8).failed(sense::kSavingNotSupported));
  CHECK(hd.sense6(8, 0x01).failed(sense::kInvalidField));
  CHECK(hd.sense6(8, 0x00).failed(sense::kInvalidField));
  CHECK(hd.sense6(8, 0x08, 1).failed(sense::kInvalidField));
  CHECK(hd.sense6(8, 0x08, 0, 0).in.empty());
}

TEST_CASE("ScsiHd: the write cache is switched while the disk runs", "[scsi][mode]") {
  Hd hd;
  const auto forces = [&] {
    const int before = hd.disk->forced();
    CHECK(hd.run(scsi_cdb10(0x2a, 0, 0, 1), Bytes(512)).good());
    return hd.disk->forced() != before;
  };
  CHECK_FALSE(forces());
  const int flushes = hd.disk->flushes();
  const ScsiReplied off = hd.select6(Bytes(4) + caching(false));
  CHECK(off.good());
  CHECK(off.outcome.transferred == 24);
  CHECK(hd.disk->flushes() == flushes + 1);
  CHECK(forces());
  CHECK(hd.sense6(8, 0x08).in[6] == 0);
  CHECK(hd.sense6(8, 0x88).in[6] == 4);
  CHECK(hd.select10(Bytes(7) + Bytes{8} + kDescriptor + caching(true)).good());
  CHECK_FALSE(forces());
  CHECK(hd.disk->flushes() == flushes + 1);
  CHECK(hd.select6(Bytes(4) + caching(false)).good());
  hd.unit->reset();
  CHECK_FALSE(forces());
}

TEST_CASE("ScsiHd: a cache that the user has turned off stays so across a reset", "[scsi][mode]") {
  ScsiHdConfig config;
  config.write_cache = false;
  Hd hd(config);
  CHECK(hd.sense6(8, 0x08).in[6] == 0);
  CHECK(hd.sense6(8, 0x88).in[6] == 0);
  CHECK(hd.select6(Bytes(4) + caching(true)).good());
  CHECK(hd.sense6(8, 0x08).in[6] == 4);
  hd.unit->reset();
  CHECK(hd.sense6(8, 0x08).in[6] == 0);
}

TEST_CASE("ScsiHd: a MODE SELECT with anything wrong changes nothing", "[scsi][mode]") {
  Hd hd;
  const Bytes off = caching(false), header(4);
  CHECK(hd.select6(header + off, 0x00).failed(sense::kInvalidField));
  CHECK(hd.select6(header + off, 0x11).failed(sense::kInvalidField));
  CHECK(hd.select6(Bytes(3)).failed(sense::kParameterListLength));
  CHECK(hd.select10(Bytes(7)).failed(sense::kParameterListLength));
  CHECK(hd.select6(header + Bytes{0x08}).failed(sense::kParameterListLength));
  CHECK(hd.select6(header + Bytes(off.begin(), off.end() - 1)).failed(sense::kParameterListLength));
  CHECK(hd.select10(Bytes(300)).failed(sense::kParameterListLength));
  Bytes page = off;
  page[0] = 0x88;
  CHECK(hd.select6(header + page).failed(sense::kInvalidParameter));
  page[0] = 0x48;
  CHECK(hd.select6(header + page).failed(sense::kInvalidParameter));
  page[0] = 0x01;
  CHECK(hd.select6(header + page).failed(sense::kInvalidParameter));
  page = off;
  page[2] |= 1;
  CHECK(hd.select6(header + page).failed(sense::kInvalidParameter));
  page = off;
  page[1] = 0x13;
  CHECK(hd.select6(header + page + Bytes(1)).failed(sense::kInvalidParameter));
  Bytes control = kControl;
  control[8] = 0;
  CHECK(hd.select6(header + off + control).failed(sense::kInvalidParameter));
  CHECK(hd.select6(Bytes{0, 0, 0, 4} + Bytes(4) + off).failed(sense::kInvalidParameter));
  CHECK(hd.select6(Bytes{0, 0, 0, 200} + off).failed(sense::kParameterListLength));
  CHECK(hd.select6(Bytes{0, 0, 0, 8} + scsi_be<4>(2047) + scsi_be<4>(512) + off)
            .failed(sense::kInvalidParameter));
  CHECK(hd.select6(Bytes{0, 0, 0, 8} + scsi_be<4>(2048) + scsi_be<4>(4096) + off)
            .failed(sense::kInvalidParameter));
  CHECK(hd.sense6(8, 0x08).in[6] == 4);
  CHECK(hd.select6({}).good());
  CHECK(hd.select6(header).good());
  CHECK(hd.select6(Bytes{0, 0, 0, 8} + Bytes(4) + scsi_be<4>(512) + off + kControl).good());
  CHECK(hd.select10(Bytes{0, 0, 0, 0, 1, 0, 0, 16} + scsi_be<8>(2048) + Bytes(4) + scsi_be<4>(512) +
                    caching(true))
            .good());
}
